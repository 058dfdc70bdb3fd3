-- A slice of the runs that wait, in order of (lane, id), and what is wrong with each: it waits for nothing, for an outcome that it
-- could have been told, or for targets that have ended or are not there. An end and what follows from it commit together, so
-- one look either sees both or neither. What is in another store has not ended while its mirror is open.
-- Indexes: runs_waiting, journal_pkey, runs_pkey, batches_pkey, tokens_pkey, mirrors_open.
SELECT w.environment_id, w.lane_id, w.id, a.pending, a.resolved, a.ended
FROM (
    SELECT r.environment_id, r.lane_id, r.id FROM headrace.runs AS r
    WHERE r.status = 'WAITING' AND (r.lane_id, r.id) > ($1::integer, $2::uuid)
    ORDER BY r.lane_id, r.id LIMIT $3::integer
) AS w CROSS JOIN LATERAL (
    SELECT (count(*) FILTER (WHERE j.pending))::integer AS pending,
        (count(*) FILTER (WHERE NOT j.pending))::integer AS resolved,
        array_agg(j.target) FILTER (WHERE j.pending AND CASE j.kind
            WHEN 'run' THEN NOT EXISTS (
                SELECT FROM headrace.runs AS c WHERE c.environment_id = j.environment_id AND c.id = j.target AND c.finished_at IS NULL
            ) AND NOT EXISTS (
                SELECT FROM headrace.mirrors AS m
                WHERE m.environment_id = j.environment_id AND m.id = j.target AND m.kind = 'run' AND m.resolved_at IS NULL
            )
            WHEN 'token' THEN NOT EXISTS (
                SELECT FROM headrace.tokens AS t WHERE t.environment_id = j.environment_id AND t.id = j.target AND t.status = 'WAITING'
            ) AND NOT EXISTS (
                SELECT FROM headrace.mirrors AS m
                WHERE m.environment_id = j.environment_id AND m.id = j.target AND m.kind = 'token' AND m.resolved_at IS NULL
            )
            WHEN 'batch' THEN NOT EXISTS (
                SELECT FROM headrace.batches AS b
                WHERE b.environment_id = j.environment_id AND b.id = j.target AND b.completed_at IS NULL
            )
            WHEN 'progress' THEN NOT EXISTS (
                SELECT FROM headrace.batches AS b
                WHERE b.environment_id = j.environment_id AND b.id = j.target AND b.completed_at IS NULL
            )
            ELSE j.due_at IS NULL
        END) AS ended
    FROM headrace.journal AS j
    WHERE j.environment_id = w.environment_id AND j.run_id = w.id AND j.seen IS NULL
) AS a
