-- Ends a bulk action before its time; what it has done stays. Index: bulk_actions_pkey.
UPDATE headrace.bulk_actions AS a SET status = 'ABORTED', completed_at = headrace.clock()
WHERE a.environment_id = $1::integer AND a.id = $2::uuid AND a.status = 'PENDING'
RETURNING a.id
