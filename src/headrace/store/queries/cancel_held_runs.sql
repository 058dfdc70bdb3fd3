-- Ends runs of a batch that was to start at its seal and was aborted: a chunk a call. Indexes: batches_held, runs_pkey.
WITH held AS (
    SELECT b.environment_id, b.id FROM headrace.batches AS b
    WHERE b.status = 'ABORTED' AND b.start_policy = 'seal' AND b.processing_completed_at IS NULL
    ORDER BY b.id LIMIT 1 FOR UPDATE SKIP LOCKED
),
canceled AS (
    UPDATE headrace.runs AS r
    SET status = 'CANCELED', finished_at = headrace.clock(), updated_at = headrace.clock(),
        error = '{"type": "INTERNAL_ERROR", "code": "BATCH_NOT_SEALED", "message": "Its batch was never sealed."}'
    WHERE r.ctid = ANY(ARRAY(
        SELECT q.ctid FROM held JOIN headrace.runs AS q ON q.environment_id = held.environment_id AND q.batch_id = held.id
            AND q.id BETWEEN headrace.item_run_id(held.id, 0) AND headrace.item_run_id(held.id, 2147483647)
        WHERE q.status = 'QUEUED' ORDER BY q.id LIMIT $1::integer FOR UPDATE OF q SKIP LOCKED
    ))
    RETURNING r.id
)
UPDATE headrace.batches AS b
SET settled = b.settled + t.n, updated_at = headrace.clock(),
    processing_completed_at = CASE WHEN t.n = 0 THEN headrace.clock() END
FROM held, (SELECT count(*)::integer AS n FROM canceled) AS t
WHERE b.environment_id = held.environment_id AND b.id = held.id
RETURNING t.n
