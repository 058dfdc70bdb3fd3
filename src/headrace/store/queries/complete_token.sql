-- Completes a token that still waits; any other is left as it is and not given back. Who waits for it is looked for in the
-- statements that follow. Index: tokens_pkey.
UPDATE headrace.tokens AS t
SET status = 'COMPLETED', completed_at = headrace.clock(), output = $3::bytea, output_type = $4::text
WHERE t.environment_id = $1::integer AND t.id = $2::uuid AND t.status = 'WAITING'
RETURNING t.id, t.environment_id, t.status, t.run_id, t.tags, t.idempotency_key, t.idempotency_key_expires_at, t.timeout_at, t.created_at,
    t.completed_at, t.output, t.output_type
