-- Marks runs as ones whose end has to be told to somebody, and says how they stand now. Locks them in one order.
-- Index: runs_pkey.
UPDATE headrace.runs AS r SET watched = true
FROM (
    SELECT l.environment_id, l.id FROM headrace.runs AS l
    WHERE l.environment_id = $1::integer AND l.id = ANY($2::uuid[]) ORDER BY l.id FOR UPDATE
) AS w
WHERE r.environment_id = w.environment_id AND r.id = w.id
RETURNING r.id, r.finished_at IS NOT NULL AS ended, r.status = 'COMPLETED' AS succeeded
