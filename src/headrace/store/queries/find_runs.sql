-- Runs as they stand, by their ids. Index: runs_pkey.
SELECT r.id, l.task, l.queue, r.status, r.payload, r.payload_type, r.output, r.output_type, r.error::text AS error, r.attempt,
    r.batch_id, r.batch_index, r.parent_run_id, r.root_run_id, r.depth, r.resumes, r.metadata::text AS metadata,
    r.idempotency_key, r.options::text AS options, r.created_at, r.updated_at,
    r.delayed_until, r.started_at, r.finished_at, r.traceparent, r.delayed_until > headrace.clock() AS delayed, l.pending,
    coalesce(v.version, CASE WHEN l.locked THEN l.version END) AS version
FROM headrace.runs AS r
JOIN headrace.lane_states AS l ON l.id = r.lane_id
LEFT JOIN headrace.versions AS v ON v.id = r.version_id
WHERE r.environment_id = $1::integer AND r.id = ANY($2::uuid[])
ORDER BY r.id
