-- The points that waited for what has just ended are pending no more; of a batch of which some items more have ended ($3),
-- those that asked for just that. Run after the ends were written, as a statement of its own: it sees every wait whose writer
-- found the target unended. Index: journal_waiters.
UPDATE headrace.journal AS j SET pending = false, done_at = headrace.clock()
WHERE j.environment_id = $1::integer AND j.target = ANY($2::uuid[] || $3::uuid[]) AND j.pending AND j.target IS NOT NULL
    AND (j.kind = 'progress' OR j.target = ANY($2::uuid[]))
RETURNING j.run_id, j.seen IS NULL AS awaited
