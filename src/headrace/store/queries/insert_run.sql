-- One run that belongs to no batch. Index: runs_pkey.
INSERT INTO headrace.runs (
    environment_id, lane_id, id, status, ready_at, created_at, updated_at, delayed_until, parent_run_id, root_run_id, depth, payload,
    payload_type, options, idempotency_key, traceparent
)
SELECT $1::integer, $2::integer, $3::uuid, 'QUEUED', greatest(t.now, $4::timestamptz), t.now, t.now, $4::timestamptz,
    $5::uuid, $11::uuid, $12::integer, $6::bytea, $7::text, $8::text::jsonb, $9::text, $10::text
FROM (SELECT headrace.clock() AS now) AS t
