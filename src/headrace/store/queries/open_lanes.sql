-- Starts the runs of a batch that was to start at its seal: one row a task, however many the runs. Index: lanes_by_batch.
UPDATE headrace.lanes SET open = true WHERE batch_id = $1::uuid
