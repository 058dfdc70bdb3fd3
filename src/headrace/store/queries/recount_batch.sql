-- A batch's counts as its items say them, and its end where that follows. Run while the transaction holds the batch's row, as a
-- statement of its own: what completed before the row was held is seen here, and what completes later adds to what is written.
-- A batch none of whose items has a run is ABORTED by the rule that closes every batch.
-- Indexes: batches_pkey, runs_pkey, batch_aliases_pkey, mirrors_open.
WITH mended AS (
    UPDATE headrace.batch_aliases AS a SET settled = true
    WHERE a.environment_id = $1::integer AND a.batch_id = $2::uuid AND NOT a.settled AND NOT EXISTS (
        SELECT FROM headrace.runs AS r
        WHERE r.environment_id = a.environment_id AND r.id = a.run_id AND r.finished_at IS NULL
    ) AND NOT EXISTS (
        SELECT FROM headrace.mirrors AS m
        WHERE m.environment_id = a.environment_id AND m.id = a.run_id AND m.kind = 'run' AND m.resolved_at IS NULL
    )
)
UPDATE headrace.batches AS b
SET accepted = b.run_count, highest_index = b.run_count - 1, aliased = c.aliased, prefailed = c.prefailed,
    settled = c.settled, succeeded = c.succeeded, updated_at = headrace.clock(),
    status = headrace.settled_batch_status('PROCESSING', b.run_count, c.settled, c.prefailed),
    completed_at = CASE WHEN c.settled = b.run_count THEN headrace.clock() END,
    error = CASE
        WHEN c.missing = b.run_count THEN jsonb_build_object('type', 'INTERNAL_ERROR', 'code', 'BATCH_WITHOUT_RUNS', 'message', format(
            'The batch was sealed with %s items, but has no run at all: nothing of it was or will be done. That is a fault of '
            'headrace or its database. Submit it again.', b.run_count))
        WHEN c.missing > 0 THEN jsonb_build_object('type', 'INTERNAL_ERROR', 'code', 'BATCH_RUNS_LOST', 'message', format(
            'The batch was sealed with %s items, of which %s have no run: these were not done. That is a fault of '
            'headrace or its database. Submit them again.', b.run_count, c.missing))
        ELSE b.error
    END
FROM (
    SELECT o.environment_id, o.id, i.* FROM headrace.batches AS o,
        LATERAL headrace.count_items(o.environment_id, o.id, o.run_count) AS i
    WHERE o.environment_id = $1::integer AND o.id = $2::uuid AND o.sealed_at IS NOT NULL AND o.completed_at IS NULL
) AS c
WHERE b.environment_id = c.environment_id AND b.id = c.id
RETURNING b.status, b.accepted, b.settled, b.succeeded, c.missing, b.completed_at IS NOT NULL AS ended
