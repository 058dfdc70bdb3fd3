-- Locks, in one order, the runs that wait for what has just ended ($2, and batches of which some items more have ended, $3),
-- before their journals are written to: who cancels a run, puts it down or writes its points takes it first and its journal
-- after it, too. As in lock_runs, each row is met by its key. Indexes: journal_waiters, runs_pkey.
SELECT r.id FROM (
    SELECT DISTINCT j.run_id AS id FROM (SELECT DISTINCT u.id FROM unnest($2::uuid[] || $3::uuid[]) AS u (id)) AS t
    CROSS JOIN LATERAL (
        SELECT w.run_id FROM headrace.journal AS w
        WHERE w.environment_id = $1::integer AND w.target = t.id AND w.pending AND w.target IS NOT NULL
            AND (w.kind = 'progress' OR w.target = ANY($2::uuid[])) AND w.seen IS NULL
        OFFSET 0
    ) AS j
    ORDER BY j.run_id
) AS n
CROSS JOIN LATERAL (
    SELECT l.id FROM headrace.runs AS l WHERE l.environment_id = $1::integer AND l.id = n.id LIMIT 1 FOR UPDATE
) AS r
