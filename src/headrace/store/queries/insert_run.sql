-- One run that belongs to no batch. Who gives it an order key holds that key's lock. One that is there already stays as it is: it
-- is made twice where the order for it came from another store twice. Indexes: runs_pkey, environments_pkey.
INSERT INTO headrace.runs (
    environment_id, lane_id, id, status, ready_at, created_at, updated_at, delayed_until, parent_run_id, root_run_id, depth, payload,
    payload_type, options, idempotency_key, traceparent, concurrency_key, order_key, order_number, order_lane_id, expires_at,
    schedule_id, replayed_from
)
SELECT $1::integer, $2::integer, $3::uuid, 'QUEUED',
    greatest(t.now - make_interval(secs => coalesce((o.said ->> 'priority')::float8, 0)), $4::timestamptz), t.now, t.now, $4::timestamptz,
    $5::uuid, $11::uuid, $12::integer, $6::bytea, $7::text, o.said, $9::text, $10::text,
    o.said ->> 'concurrencyKey', o.said ->> 'orderKey', CASE WHEN o.said ? 'orderKey' THEN nextval('headrace.run_order') END,
    CASE WHEN o.said ? 'orderKey' THEN $2::integer END,
    headrace.run_expiry(greatest(t.now, $4::timestamptz), (o.said ->> 'ttl')::float8, t.default_ttl, t.max_ttl),
    (o.said ->> 'scheduleId')::uuid, (o.said ->> 'replayedFrom')::uuid
FROM (SELECT $8::text::jsonb AS said) AS o
CROSS JOIN (SELECT headrace.clock() AS now, e.default_ttl, e.max_ttl FROM headrace.environments AS e WHERE e.id = $1::integer) AS t
ON CONFLICT (environment_id, id) DO NOTHING
