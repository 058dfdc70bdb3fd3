-- Waits for the claims of an environment that are under way, and lets none begin before the commit: each holds its worker's row.
-- In one order everywhere. Indexes: workers_not_emptied.
SELECT w.id FROM headrace.workers AS w
WHERE w.emptied_at IS NULL AND w.ended_at IS NULL AND w.environment_id = $1::integer
ORDER BY w.id FOR NO KEY UPDATE
