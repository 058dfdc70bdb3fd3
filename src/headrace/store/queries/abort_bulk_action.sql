-- Ends a bulk action before its time; what it has done stays. Indexes: bulk_actions_pkey, bulk_parts_open.
UPDATE headrace.bulk_actions AS a SET status = 'ABORTED', completed_at = headrace.clock()
WHERE a.environment_id = $1::integer AND a.id = $2::uuid AND a.status = 'PENDING'
RETURNING a.id, EXISTS (
    SELECT FROM headrace.bulk_parts AS p
    WHERE p.environment_id = $1::integer AND p.action_id = $2::uuid AND p.status = 'PENDING'
) AS parted
