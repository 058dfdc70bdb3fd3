-- The points that waited for these targets (runs, batches, tokens), of which something has just ended, are pending no more.
-- Run after the end was written, as a statement of its own: it sees every wait whose writer found the target unended.
-- Index: journal_waiters.
UPDATE headrace.journal AS j SET pending = false, done_at = headrace.clock()
WHERE j.environment_id = $1::integer AND j.target = ANY($2::uuid[]) AND j.pending AND j.target IS NOT NULL
RETURNING j.run_id
