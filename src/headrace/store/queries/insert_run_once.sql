-- One run and the key of the request that makes it, in one statement: the usual trigger costs one round trip. No row comes
-- back, and nothing is written, where the key ($11) stands for something already. Indexes: idempotency_keys_pkey, runs_pkey.
WITH claimed AS (
    INSERT INTO headrace.idempotency_keys (environment_id, scope, key_hash, target_id, fingerprint, expires_at)
    SELECT $1::integer, 'request', $11::bytea, $3::uuid, $12::bytea, headrace.clock() + make_interval(secs => $13::float8)
    WHERE $11::bytea IS NOT NULL
    ON CONFLICT (environment_id, scope, key_hash) DO UPDATE
    SET target_id = EXCLUDED.target_id, fingerprint = EXCLUDED.fingerprint, expires_at = EXCLUDED.expires_at
    WHERE idempotency_keys.expires_at <= headrace.clock()
    RETURNING target_id
)
INSERT INTO headrace.runs (
    environment_id, lane_id, id, status, ready_at, created_at, updated_at, delayed_until, parent_run_id, root_run_id, depth, payload,
    payload_type, options, idempotency_key, traceparent
)
SELECT $1::integer, $2::integer, $3::uuid, 'QUEUED', greatest(t.now, $4::timestamptz), t.now, t.now, $4::timestamptz,
    $5::uuid, $14::uuid, $15::integer, $6::bytea, $7::text, $8::text::jsonb, $9::text, $10::text
FROM (SELECT headrace.clock() AS now) AS t
WHERE $11::bytea IS NULL OR EXISTS (SELECT FROM claimed)
RETURNING id
