-- Closes the lanes of versions of which no worker lives and in which nothing lies, so that claims need not look at them.
-- Indexes: lanes_by_version, workers_by_version, runs_ready, runs_waiting.
UPDATE headrace.lanes AS l SET open = false
WHERE l.version IS NOT NULL AND l.open
    AND NOT EXISTS (
        SELECT FROM headrace.workers AS w
        WHERE w.environment_id = l.environment_id AND w.version = l.version AND w.emptied_at IS NULL
    )
    AND NOT EXISTS (SELECT FROM headrace.runs AS r WHERE r.lane_id = l.id AND r.status = 'QUEUED')
    AND NOT EXISTS (SELECT FROM headrace.runs AS r WHERE r.lane_id = l.id AND r.status = 'WAITING')
