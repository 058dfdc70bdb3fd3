-- A page of tokens, newest first (list_tokens:back is the other way round): ids sort by time, so the key is the cursor. ($2, $3) is the open interval of ids. Outputs
-- are left out: they can be long. Index: tokens_pkey, backwards.
SELECT t.id, t.environment_id, t.status, t.run_id, t.tags, t.idempotency_key, t.idempotency_key_expires_at, t.timeout_at, t.created_at,
    t.completed_at
FROM headrace.tokens AS t
WHERE t.environment_id = $1::integer AND t.id > $2::uuid AND t.id < $3::uuid
    AND ($4::text[] IS NULL OR t.status = ANY($4::text[]::headrace.token_status[]))
    AND ($5::text[] IS NULL OR t.tags && $5::text[])
    AND ($6::text IS NULL OR t.idempotency_key = $6::text)
    AND ($7::timestamptz IS NULL OR t.created_at >= $7::timestamptz)
    AND ($8::timestamptz IS NULL OR t.created_at <= $8::timestamptz)
ORDER BY t.id DESC LIMIT $9::integer
