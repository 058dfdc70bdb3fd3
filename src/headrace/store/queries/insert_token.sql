-- One token, unless it is there already: then nothing is given back. Index: tokens_pkey.
INSERT INTO headrace.tokens AS t (
    environment_id, id, run_id, tags, idempotency_key, idempotency_key_expires_at, timeout_at, created_at
)
SELECT $1::integer, $2::uuid, $3::uuid, $4::text[], $5::text, n.now + make_interval(secs => $6::float8),
    coalesce($8::timestamptz, n.now + make_interval(secs => $7::float8)), n.now
FROM (SELECT headrace.clock() AS now) AS n
ON CONFLICT (environment_id, id) DO NOTHING
RETURNING t.id, t.environment_id, t.status, t.run_id, t.tags, t.idempotency_key, t.idempotency_key_expires_at, t.timeout_at, t.created_at,
    t.completed_at, t.output, t.output_type
