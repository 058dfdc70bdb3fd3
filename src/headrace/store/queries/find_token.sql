-- A token as it stands. Index: tokens_pkey.
SELECT t.id, t.environment_id, t.status, t.run_id, t.tags, t.idempotency_key, t.idempotency_key_expires_at, t.timeout_at, t.created_at,
    t.completed_at, t.output, t.output_type
FROM headrace.tokens AS t WHERE t.environment_id = $1::integer AND t.id = $2::uuid
