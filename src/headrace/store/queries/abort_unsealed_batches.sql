-- Ends batches that nobody sealed in time, a bounded number a call. A seal that comes at the same moment either finds
-- ABORTED or is found sealed: both are conditional on the same row. Index: batches_unsealed.
UPDATE headrace.batches AS b
SET status = 'ABORTED', completed_at = headrace.clock(), updated_at = headrace.clock(),
    error = jsonb_build_object('type', 'INTERNAL_ERROR', 'code', 'BATCH_NOT_SEALED', 'message', format(
        'The batch was never sealed: %s of %s items had arrived when its time was over. Items that did arrive %s.',
        b.accepted, coalesce(b.run_count::text, 'an open number of'),
        CASE b.start_policy WHEN 'seal' THEN 'do not run' ELSE 'run on' END
    ))
WHERE b.ctid = ANY(ARRAY(
    SELECT u.ctid FROM headrace.batches AS u
    WHERE u.status = 'PENDING' AND u.sealed_at IS NULL AND u.processing_completed_at IS NULL AND u.seal_deadline <= headrace.clock()
    ORDER BY u.seal_deadline LIMIT $1::integer FOR UPDATE SKIP LOCKED
))
RETURNING b.environment_id, b.id, b.accepted, b.run_count, b.watched OR b.followed AS told
