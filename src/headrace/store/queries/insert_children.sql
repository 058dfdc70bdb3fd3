-- Runs that a run triggers at one moment. Their place in the queue is that of the run at the top of their tree. Those of a tree
-- that is parked (moves) are parked, but for those that are to start within a time. Repeating it does nothing: their ids were minted
-- before. Who gives them order keys holds those keys' locks. Indexes: runs_pkey, environments_pkey, parkings_pkey.
INSERT INTO headrace.runs (
    environment_id, lane_id, id, status, watched, ready_at, created_at, updated_at, delayed_until, parent_run_id, root_run_id,
    depth, payload, payload_type, options, idempotency_key, traceparent, concurrency_key, order_key, order_number, order_lane_id,
    expires_at, parked
)
SELECT $1::integer, c.lane_id, c.id, 'QUEUED', c.watched, CASE WHEN p.yes THEN 'infinity' ELSE w.ready_at END,
    t.now, t.now, c.delayed_until, $2::uuid, $3::uuid, $4::integer, c.payload, c.payload_type, o.said, c.idempotency_key, $6::text,
    o.said ->> 'concurrencyKey', o.said ->> 'orderKey', CASE WHEN o.said ? 'orderKey' THEN nextval('headrace.run_order') END,
    CASE WHEN o.said ? 'orderKey' THEN c.lane_id END,
    CASE WHEN t.expires OR o.said ? 'ttl' THEN
        headrace.run_expiry(greatest(t.now, c.delayed_until), (o.said ->> 'ttl')::float8, t.default_ttl, t.max_ttl)
    END,
    CASE WHEN p.yes THEN w.ready_at END
FROM unnest(
    $7::uuid[], $8::integer[], $9::boolean[], $10::timestamptz[], $11::bytea[], $12::text[], $13::text[], $14::text[]
) AS c (id, lane_id, watched, delayed_until, payload, payload_type, options, idempotency_key)
CROSS JOIN LATERAL (SELECT c.options::jsonb AS said) AS o
CROSS JOIN (
    SELECT k.now, least($5::timestamptz, k.now) AS place, e.default_ttl, e.max_ttl,
        e.default_ttl IS NOT NULL OR e.max_ttl IS NOT NULL AS expires,
        EXISTS (SELECT FROM headrace.parkings AS p WHERE p.environment_id = $1::integer AND p.root_id = $3::uuid) AS parked
    FROM headrace.environments AS e CROSS JOIN (SELECT headrace.clock() AS now OFFSET 0) AS k WHERE e.id = $1::integer
) AS t
CROSS JOIN LATERAL (
    SELECT greatest(
        CASE WHEN o.said ? 'priority' THEN t.place - make_interval(secs => (o.said ->> 'priority')::float8) ELSE t.place END,
        c.delayed_until
    ) AS ready_at
) AS w
CROSS JOIN LATERAL (SELECT t.parked AND NOT (t.expires OR coalesce(o.said ? 'ttl', false)) AS yes) AS p
ON CONFLICT (environment_id, id) DO NOTHING
