-- After a claim: which of the limits $2 took something ($3), which were left to another store ($4), and under which this store's
-- workers of these tasks ($5) would take more: there is something ready, and they have room for it ($6). The others believe that
-- for $7 seconds. Who claims here holds these limits, so no two write one row at once. Indexes: limit_turns_pkey, lanes_open, tasks_pkey,
-- queues_environment_id_name_key, runs_ready.
INSERT INTO headrace.limit_turns AS t (environment_id, queue, tried_at, took_at, wants_until)
SELECT $1::integer, n.name, CASE WHEN NOT n.left_over THEN headrace.clock() END, CASE WHEN n.took THEN headrace.clock() END,
    CASE WHEN $6::boolean AND EXISTS (
        SELECT FROM headrace.lanes AS l
        LEFT JOIN headrace.tasks AS k ON k.environment_id = l.environment_id AND k.id = l.task
        CROSS JOIN LATERAL (SELECT CASE WHEN l.queue = 'task/' || l.task THEN coalesce(k.queue, l.queue) ELSE l.queue END AS queue) AS m
        LEFT JOIN headrace.queues AS q ON q.environment_id = l.environment_id AND q.name = m.queue
        CROSS JOIN LATERAL (
            SELECT FROM headrace.runs AS r
            WHERE r.lane_id = l.id AND r.status = 'QUEUED' AND r.ready_at <= headrace.clock()
            ORDER BY r.ready_at, r.id LIMIT 1
        ) AS head
        WHERE l.environment_id = $1::integer AND l.open AND l.task = ANY($5::text[]) AND q.paused_at IS NULL
            AND (n.name = '' OR m.queue = n.name)
    ) THEN headrace.clock() + make_interval(secs => $7::float8) END
FROM unnest($2::text[], $3::boolean[], $4::boolean[]) AS n (name, took, left_over)
ON CONFLICT (environment_id, queue) DO UPDATE
SET tried_at = coalesce(EXCLUDED.tried_at, t.tried_at), took_at = coalesce(EXCLUDED.took_at, t.took_at), wants_until = EXCLUDED.wants_until
