-- The points that waited for what has just ended are pending no more; of a batch of which some items more have ended ($3),
-- those that asked for just that. Run after the ends were written, as a statement of its own: it sees every wait whose writer
-- found the target unended. A batch and its first item have one id, so it is asked whether what the point waits for has ended.
-- Indexes: journal_waiters, runs_pkey, batches_pkey.
UPDATE headrace.journal AS j SET pending = false, done_at = headrace.clock()
WHERE j.environment_id = $1::integer AND j.target = ANY($2::uuid[] || $3::uuid[]) AND j.pending AND j.target IS NOT NULL
    AND CASE j.kind
        WHEN 'progress' THEN true
        WHEN 'batch' THEN j.target = ANY($2::uuid[]) AND NOT EXISTS (
            SELECT FROM headrace.batches AS b
            WHERE b.environment_id = j.environment_id AND b.id = j.target AND b.completed_at IS NULL
        )
        WHEN 'run' THEN j.target = ANY($2::uuid[]) AND NOT EXISTS (
            SELECT FROM headrace.runs AS r
            WHERE r.environment_id = j.environment_id AND r.id = j.target AND r.finished_at IS NULL
        )
        ELSE j.target = ANY($2::uuid[])
    END
RETURNING j.run_id, j.seen IS NULL AS awaited
