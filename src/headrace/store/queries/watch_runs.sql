-- Marks runs as ones whose end has to be told to somebody, and says how they stand now. Locks them in one order.
-- As in lock_runs, each is met by its key. Index: runs_pkey.
UPDATE headrace.runs AS r SET watched = true
FROM (
    SELECT l.environment_id, l.id FROM (SELECT DISTINCT u.id FROM unnest($2::uuid[]) AS u (id) ORDER BY u.id) AS n
    CROSS JOIN LATERAL (
        SELECT o.environment_id, o.id FROM headrace.runs AS o
        WHERE o.environment_id = $1::integer AND o.id = n.id LIMIT 1 FOR UPDATE
    ) AS l
) AS w
WHERE r.environment_id = w.environment_id AND r.id = w.id
RETURNING r.id, r.finished_at IS NOT NULL AS ended, r.status = 'COMPLETED' AS succeeded
