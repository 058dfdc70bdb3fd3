-- Ended items of a batch from one index on, in order. Indexes: runs_pkey, batch_aliases_pkey.
SELECT p.item_index, r.id, l.task, l.queue, r.status, r.payload, r.payload_type, r.output, r.output_type, r.error::text AS error, r.attempt,
    r.batch_id, r.batch_index, r.parent_run_id, r.root_run_id, r.depth, r.resumes, r.metadata::text AS metadata,
    r.idempotency_key, r.options::text AS options, r.created_at, r.updated_at,
    r.delayed_until, r.started_at, r.finished_at, r.traceparent, r.delayed_until > headrace.clock() AS delayed, l.pending,
    coalesce(v.version, CASE WHEN l.locked THEN l.version END) AS version
FROM (
    (
        SELECT o.batch_index AS item_index, o.id FROM headrace.runs AS o
        WHERE o.environment_id = $1::integer AND o.batch_id = $2::uuid AND o.finished_at IS NOT NULL
            AND o.id BETWEEN headrace.item_run_id($2::uuid, $3::integer) AND headrace.item_run_id($2::uuid, 2147483647)
        ORDER BY o.id LIMIT $4::integer
    )
    UNION ALL
    (
        SELECT a.batch_index, a.run_id FROM headrace.batch_aliases AS a
        WHERE a.environment_id = $1::integer AND a.batch_id = $2::uuid AND a.batch_index >= $3::integer AND a.settled
        ORDER BY a.batch_index LIMIT $4::integer
    )
) AS p
JOIN headrace.runs AS r ON r.environment_id = $1::integer AND r.id = p.id
JOIN headrace.lane_states AS l ON l.id = r.lane_id
LEFT JOIN headrace.versions AS v ON v.id = r.version_id
ORDER BY p.item_index LIMIT $4::integer
