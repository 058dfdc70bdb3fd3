-- Nothing is left to end of a batch that never started. Index: batches_pkey.
UPDATE headrace.batches SET processing_completed_at = headrace.clock(), updated_at = headrace.clock()
WHERE environment_id = $1::integer AND id = $2::uuid AND processing_completed_at IS NULL
