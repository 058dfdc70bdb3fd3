-- Ends waits whose time has come, of runs that the caller has locked ($2), a bounded number. Index: journal_due.
UPDATE headrace.journal AS j SET pending = false, done_at = headrace.clock()
WHERE j.ctid = ANY(ARRAY(
    SELECT d.ctid FROM headrace.journal AS d
    WHERE d.pending AND d.due_at IS NOT NULL AND d.due_at <= headrace.clock() AND d.run_id = ANY($2::uuid[])
    ORDER BY d.due_at LIMIT $1::integer FOR UPDATE SKIP LOCKED
))
RETURNING j.environment_id, j.run_id
