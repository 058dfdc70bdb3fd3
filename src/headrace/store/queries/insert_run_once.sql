-- One run and the key of the request that makes it, in one statement: the usual trigger costs one round trip. No row comes
-- back, and nothing is written, where the key ($11) stands for something already. It has no order key.
-- Indexes: idempotency_keys_pkey, runs_pkey, environments_pkey.
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
    payload_type, options, idempotency_key, traceparent, concurrency_key, expires_at, schedule_id, replayed_from
)
SELECT $1::integer, $2::integer, $3::uuid, 'QUEUED',
    greatest(t.now - make_interval(secs => coalesce((o.said ->> 'priority')::float8, 0)), $4::timestamptz), t.now, t.now, $4::timestamptz,
    $5::uuid, $14::uuid, $15::integer, $6::bytea, $7::text, o.said, $9::text, $10::text, o.said ->> 'concurrencyKey',
    headrace.run_expiry(greatest(t.now, $4::timestamptz), (o.said ->> 'ttl')::float8, t.default_ttl, t.max_ttl),
    (o.said ->> 'scheduleId')::uuid, (o.said ->> 'replayedFrom')::uuid
FROM (SELECT $8::text::jsonb AS said) AS o
CROSS JOIN (SELECT headrace.clock() AS now, e.default_ttl, e.max_ttl FROM headrace.environments AS e WHERE e.id = $1::integer) AS t
WHERE $11::bytea IS NULL OR EXISTS (SELECT FROM claimed)
RETURNING id
