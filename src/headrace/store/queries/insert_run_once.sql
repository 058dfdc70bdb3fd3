-- One run and the key of the request that makes it, in one statement: the usual trigger costs one round trip. No row comes
-- back, and nothing is written, where the key ($11) stands for something already. It has no order key. A
-- child of a tree that is parked (moves) is parked. Indexes: idempotency_keys_pkey, runs_pkey, environments_pkey, parkings_pkey.
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
    payload_type, options, idempotency_key, traceparent, concurrency_key, expires_at, schedule_id, replayed_from, parked
)
SELECT $1::integer, $2::integer, $3::uuid, 'QUEUED',
    CASE WHEN p.yes THEN 'infinity' ELSE w.ready_at END, t.now, t.now, $4::timestamptz,
    $5::uuid, $14::uuid, $15::integer, $6::bytea, $7::text, o.said, $9::text, $10::text, o.said ->> 'concurrencyKey',
    headrace.run_expiry(greatest(t.now, $4::timestamptz), (o.said ->> 'ttl')::float8, t.default_ttl, t.max_ttl),
    (o.said ->> 'scheduleId')::uuid, (o.said ->> 'replayedFrom')::uuid, CASE WHEN p.yes THEN w.ready_at END
FROM (SELECT $8::text::jsonb AS said) AS o
CROSS JOIN (SELECT headrace.clock() AS now, e.default_ttl, e.max_ttl FROM headrace.environments AS e WHERE e.id = $1::integer) AS t
CROSS JOIN LATERAL (
    SELECT greatest(t.now - make_interval(secs => coalesce((o.said ->> 'priority')::float8, 0)), $4::timestamptz) AS ready_at
) AS w
CROSS JOIN LATERAL (
    SELECT $14::uuid IS NOT NULL AND t.default_ttl IS NULL AND t.max_ttl IS NULL AND NOT coalesce(o.said ? 'ttl', false)
        AND EXISTS (SELECT FROM headrace.parkings AS p WHERE p.environment_id = $1::integer AND p.root_id = $14::uuid) AS yes
) AS p
WHERE $11::bytea IS NULL OR EXISTS (SELECT FROM claimed)
RETURNING id
