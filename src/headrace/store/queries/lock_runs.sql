-- Locks runs in one order, whatever their status: a statement that follows sees what a transaction that was waited for
-- made of them. Each is met by its key, whatever PostgreSQL believes of a table that it has no statistics of: before 17 it
-- would read all runs of the environment. Index: runs_pkey.
SELECT r.id FROM (SELECT DISTINCT u.id FROM unnest($2::uuid[]) AS u (id) ORDER BY u.id) AS w
CROSS JOIN LATERAL (
    SELECT l.id FROM headrace.runs AS l WHERE l.environment_id = $1::integer AND l.id = w.id LIMIT 1 FOR UPDATE
) AS r
