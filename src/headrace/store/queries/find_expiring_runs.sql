-- Runs whose time to start is over, a bounded number. Locked they are next, in a statement of its own. Index: runs_expiring.
SELECT r.environment_id, r.id FROM headrace.runs AS r
WHERE r.status = 'QUEUED' AND r.expires_at IS NOT NULL AND r.expires_at <= headrace.clock()
ORDER BY r.expires_at LIMIT $1::integer
