-- Ends a lease by the worker's own word. Index: workers_pkey.
UPDATE headrace.workers SET ended_at = headrace.clock(), emptied_at = headrace.clock()
WHERE id = $1::bigint AND ended_at IS NULL
RETURNING id
