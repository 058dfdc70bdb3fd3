-- Runs that a run triggers at one moment. Their place in the queue is that of the run at the top of their tree. Repeating it
-- does nothing: their ids were minted before. Index: runs_pkey.
INSERT INTO headrace.runs (
    environment_id, lane_id, id, status, watched, ready_at, created_at, updated_at, delayed_until, parent_run_id, root_run_id,
    depth, payload, payload_type, options, idempotency_key, traceparent
)
SELECT $1::integer, c.lane_id, c.id, 'QUEUED', c.watched, greatest(least($5::timestamptz, t.now), c.delayed_until), t.now, t.now,
    c.delayed_until, $2::uuid, $3::uuid, $4::integer, c.payload, c.payload_type, c.options::jsonb, c.idempotency_key, $6::text
FROM unnest(
    $7::uuid[], $8::integer[], $9::boolean[], $10::timestamptz[], $11::bytea[], $12::text[], $13::text[], $14::text[]
) AS c (id, lane_id, watched, delayed_until, payload, payload_type, options, idempotency_key)
CROSS JOIN (SELECT headrace.clock() AS now) AS t
ON CONFLICT (environment_id, id) DO NOTHING
