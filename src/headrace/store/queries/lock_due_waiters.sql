-- Locks, in one order, the runs of a bounded number of waits whose time has come, before their journals are written to
-- (see lock_waiters). Indexes: journal_due, runs_pkey.
SELECT r.environment_id, r.id
FROM (
    SELECT DISTINCT d.environment_id, d.run_id FROM (
        SELECT j.environment_id, j.run_id FROM headrace.journal AS j
        WHERE j.pending AND j.due_at IS NOT NULL AND j.due_at <= headrace.clock()
        ORDER BY j.due_at LIMIT $1::integer
    ) AS d
    ORDER BY d.environment_id, d.run_id
) AS w CROSS JOIN LATERAL (
    SELECT o.environment_id, o.id FROM headrace.runs AS o
    WHERE o.environment_id = w.environment_id AND o.id = w.run_id
    LIMIT 1 FOR UPDATE
) AS r
