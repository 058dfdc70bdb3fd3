-- A batch that nobody waits for any more takes no further items. One that is sealed ends by its runs. Index: batches_pkey.
UPDATE headrace.batches AS b
SET status = 'ABORTED', completed_at = headrace.clock(), updated_at = headrace.clock(),
    error = '{"type": "INTERNAL_ERROR", "code": "BATCH_CANCELLED", "message": "The run that made the batch was canceled."}'
WHERE b.environment_id = $1::integer AND b.id = $2::uuid AND b.status = 'PENDING' AND b.sealed_at IS NULL
RETURNING b.id
