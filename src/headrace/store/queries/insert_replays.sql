-- A run for each of $4, with its payload, which does not leave the database for it. Who gives them order keys holds the locks of
-- those; they are numbered as they are named. Indexes: runs_pkey, environments_pkey.
INSERT INTO headrace.runs (
    environment_id, lane_id, id, status, ready_at, created_at, updated_at, payload, payload_type, options, concurrency_key,
    order_key, order_number, order_lane_id, expires_at, replayed_from
)
SELECT $1::integer, n.lane_id, n.id, 'QUEUED', t.now, t.now, t.now, r.payload, r.payload_type, o.said, o.said ->> 'concurrencyKey',
    o.said ->> 'orderKey', CASE WHEN o.said ? 'orderKey' THEN nextval('headrace.run_order') END,
    CASE WHEN o.said ? 'orderKey' THEN n.lane_id END, headrace.run_expiry(t.now, NULL, t.default_ttl, t.max_ttl), n.replayed
FROM (SELECT headrace.clock() AS now, e.default_ttl, e.max_ttl FROM headrace.environments AS e WHERE e.id = $1::integer) AS t
CROSS JOIN unnest($2::uuid[], $3::integer[], $4::uuid[], $5::text[]) AS n (id, lane_id, replayed, options)
CROSS JOIN LATERAL (SELECT n.options::jsonb AS said) AS o
CROSS JOIN LATERAL (
    SELECT r.payload, r.payload_type FROM headrace.runs AS r
    WHERE r.environment_id = $1::integer AND r.id = n.replayed LIMIT 1
) AS r
RETURNING id, replayed_from
