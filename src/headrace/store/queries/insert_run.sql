-- One run that belongs to no batch. Who gives it an order key holds that key's lock. One that is there already stays as it is: it
-- is made twice where the order for it came from another store twice. A child of a tree that is parked
-- (moves) is parked. Indexes: runs_pkey, environments_pkey, parkings_pkey.
INSERT INTO headrace.runs (
    environment_id, lane_id, id, status, ready_at, created_at, updated_at, delayed_until, parent_run_id, root_run_id, depth, payload,
    payload_type, options, idempotency_key, traceparent, concurrency_key, order_key, order_number, order_lane_id, expires_at,
    schedule_id, replayed_from, parked
)
SELECT $1::integer, $2::integer, $3::uuid, 'QUEUED',
    CASE WHEN p.yes THEN 'infinity' ELSE w.ready_at END, t.now, t.now, $4::timestamptz,
    $5::uuid, $11::uuid, $12::integer, $6::bytea, $7::text, o.said, $9::text, $10::text,
    o.said ->> 'concurrencyKey', o.said ->> 'orderKey', CASE WHEN o.said ? 'orderKey' THEN nextval('headrace.run_order') END,
    CASE WHEN o.said ? 'orderKey' THEN $2::integer END,
    headrace.run_expiry(greatest(t.now, $4::timestamptz), (o.said ->> 'ttl')::float8, t.default_ttl, t.max_ttl),
    (o.said ->> 'scheduleId')::uuid, (o.said ->> 'replayedFrom')::uuid, CASE WHEN p.yes THEN w.ready_at END
FROM (SELECT $8::text::jsonb AS said) AS o
CROSS JOIN (SELECT headrace.clock() AS now, e.default_ttl, e.max_ttl FROM headrace.environments AS e WHERE e.id = $1::integer) AS t
CROSS JOIN LATERAL (
    SELECT greatest(t.now - make_interval(secs => coalesce((o.said ->> 'priority')::float8, 0)), $4::timestamptz) AS ready_at
) AS w
CROSS JOIN LATERAL (
    SELECT $11::uuid IS NOT NULL AND t.default_ttl IS NULL AND t.max_ttl IS NULL AND NOT coalesce(o.said ? 'ttl', false)
        AND EXISTS (SELECT FROM headrace.parkings AS p WHERE p.environment_id = $1::integer AND p.root_id = $11::uuid) AS yes
) AS p
ON CONFLICT (environment_id, id) DO NOTHING
