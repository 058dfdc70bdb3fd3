-- The points that waited for what has just ended are pending no more; of a batch of which some items more have ended ($3),
-- those that asked for just that. Run after the ends were written, as a statement of its own: it sees every wait whose writer
-- found the target unended. A batch and its first item have one id, so it is asked whether what the point waits for has ended.
-- Other stores that wait for it ($2) are to be told: that goes to the outbox in the same statement, and is nothing in most.
-- Indexes: journal_waiters, runs_pkey, batches_pkey, interests_pkey.
WITH told AS (
    DELETE FROM headrace.interests AS i
    WHERE i.environment_id = $1::integer AND i.target_id = ANY($2::uuid[]) AND coalesce((
        SELECT r.finished_at IS NOT NULL FROM headrace.runs AS r
        WHERE r.environment_id = i.environment_id AND r.id = i.target_id
    ), true)
    RETURNING i.environment_id, i.target_id, i.store
),
sent AS (
    INSERT INTO headrace.outbox (store, environment_id, kind, target_id, due_at)
    SELECT t.store, t.environment_id, 'end', t.target_id, headrace.clock() FROM told AS t
)
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
