-- Ended workers that hold nothing any more. Indexes: workers_not_emptied, runs_held.
UPDATE headrace.workers AS w SET emptied_at = headrace.clock()
WHERE w.emptied_at IS NULL AND w.ended_at IS NOT NULL
    AND NOT EXISTS (SELECT FROM headrace.runs AS r WHERE r.worker_id = w.id AND r.status = 'EXECUTING')
