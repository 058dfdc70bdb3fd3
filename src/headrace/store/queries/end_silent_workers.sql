-- Ends the leases whose time is over. After this commits they claim nothing more. Index: workers_not_emptied.
UPDATE headrace.workers SET ended_at = headrace.clock()
WHERE emptied_at IS NULL AND ended_at IS NULL AND lease_until < headrace.clock()
RETURNING id, name
