-- A new batch, unsealed.
INSERT INTO headrace.batches (
    environment_id, id, start_policy, run_count, seal_deadline, parent_run_id, resume_parent, idempotency_key,
    traceparent, root_run_id, depth, watched, created_at, updated_at
)
SELECT $1::integer, $2::uuid, $3::text, $4::integer, t.now + make_interval(secs => $5::float8), $6::uuid, $7::boolean,
    $8::text, $9::text, $10::uuid, $11::integer, $12::boolean, t.now, t.now
FROM (SELECT headrace.clock() AS now) AS t
ON CONFLICT (environment_id, id) DO NOTHING
RETURNING id, environment_id, status, run_count, accepted, highest_index, aliased, prefailed, settled, succeeded, sealed_at, start_policy,
    idempotency_key, parent_run_id, resume_parent, traceparent, error::text AS error, created_at, updated_at,
    processing_completed_at, completed_at, seal_deadline, root_run_id, depth
