-- Closes the lanes of versions of which no worker lives and in which nothing lies, so that claims need not look at them. What
-- another version's worker took from one may come back into it. ORDER BY and LIMIT keep the planner to a probe a lane. Indexes:
-- lanes_by_version, workers_by_version, runs_ready, runs_waiting, workers_not_emptied, runs_held.
UPDATE headrace.lanes AS l SET open = false
WHERE l.version IS NOT NULL AND l.open
    AND NOT EXISTS (
        SELECT FROM headrace.workers AS w
        WHERE w.environment_id = l.environment_id AND w.version = l.version AND w.emptied_at IS NULL
    )
    AND (SELECT true FROM headrace.runs AS r WHERE r.lane_id = l.id AND r.status = 'QUEUED' ORDER BY r.ready_at, r.id LIMIT 1) IS NULL
    AND (SELECT true FROM headrace.runs AS r WHERE r.lane_id = l.id AND r.status = 'WAITING' ORDER BY r.id LIMIT 1) IS NULL
    AND l.id <> ALL(ARRAY(
        SELECT held.lane_id FROM headrace.workers AS w CROSS JOIN LATERAL (
            SELECT DISTINCT r.lane_id FROM headrace.runs AS r WHERE r.worker_id = w.id AND r.status = 'EXECUTING'
        ) AS held
        WHERE w.emptied_at IS NULL
    ))
