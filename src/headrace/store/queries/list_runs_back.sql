-- A page of runs, the way back, oldest first: ids sort by time, so the key is the cursor and a run is met once however many are added.
-- Index: runs_pkey. ($2, $3) is the open interval of ids; a batch narrows it to its own part of the key.
SELECT r.id, l.task, l.queue, r.status, r.payload, r.payload_type, r.output, r.output_type, r.error::text AS error, r.attempt,
    r.batch_id, r.batch_index, r.parent_run_id, r.root_run_id, r.depth, r.resumes, r.metadata::text AS metadata,
    r.idempotency_key, r.options::text AS options, r.created_at, r.updated_at,
    r.delayed_until, r.started_at, r.finished_at, r.traceparent, r.delayed_until > headrace.clock() AS delayed, l.pending,
    coalesce(v.version, CASE WHEN l.locked THEN l.version END) AS version
FROM (
    SELECT r.* FROM headrace.runs AS r
    WHERE r.environment_id = $1::integer AND r.id > $2::uuid AND r.id < $3::uuid
        AND ($4::text[] IS NULL OR r.status = ANY($4::text[]::headrace.run_status[]))
        AND (
            ($5::text[] IS NULL AND $6::text[] IS NULL)
            OR r.lane_id = ANY(ARRAY(
                SELECT l.id FROM headrace.lanes AS l
                WHERE l.environment_id = $1::integer AND ($5::text[] IS NULL OR l.task = ANY($5::text[]))
                    AND ($6::text[] IS NULL OR l.queue = ANY($6::text[]))
            ))
        )
        AND ($7::uuid IS NULL OR r.batch_id = $7::uuid)
        AND ($8::text[] IS NULL OR r.options -> 'tags' ?| $8::text[])
        AND ($9::timestamptz IS NULL OR r.created_at >= $9::timestamptz)
        AND ($10::timestamptz IS NULL OR r.created_at <= $10::timestamptz)
        AND (
            $11::text[] IS NULL OR r.status <> 'QUEUED' OR CASE
                WHEN r.lane_id = ANY(ARRAY(
                    SELECT l.id FROM headrace.lane_states AS l WHERE l.environment_id = $1::integer AND l.pending
                )) THEN 'PENDING_VERSION'
                WHEN r.delayed_until > headrace.clock() THEN 'DELAYED'
                ELSE 'QUEUED'
            END = ANY($11::text[])
        )
    ORDER BY r.id LIMIT $12::integer
) AS r
JOIN headrace.lane_states AS l ON l.id = r.lane_id
LEFT JOIN headrace.versions AS v ON v.id = r.version_id
ORDER BY r.id
