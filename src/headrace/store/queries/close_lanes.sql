-- Closes the lanes of batches that have ended, so that claims need not look at them. Index: lanes_by_batch.
UPDATE headrace.lanes AS l SET open = false
FROM headrace.batches AS b
WHERE l.open AND l.batch_id IS NOT NULL AND b.environment_id = l.environment_id AND b.id = l.batch_id
    AND b.status IN ('COMPLETED', 'PARTIAL_FAILED', 'ABORTED')
