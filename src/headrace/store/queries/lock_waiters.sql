-- Locks, in one order, the runs that wait for what has just ended ($2, and batches of which some items more have ended, $3),
-- before their journals are written to: who cancels a run, puts it down or writes its points takes it first and its journal
-- after it, too. Indexes: journal_waiters, runs_pkey.
SELECT r.id FROM headrace.runs AS r
WHERE r.environment_id = $1::integer AND r.id = ANY(ARRAY(
    SELECT j.run_id FROM headrace.journal AS j
    WHERE j.environment_id = $1::integer AND j.target = ANY($2::uuid[] || $3::uuid[]) AND j.pending AND j.target IS NOT NULL
        AND (j.kind = 'progress' OR j.target = ANY($2::uuid[])) AND j.seen IS NULL
)) ORDER BY r.id FOR UPDATE
