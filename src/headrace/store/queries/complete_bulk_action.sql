-- Ends a bulk action whose row the transaction holds, where nothing is left of it here or in another store.
-- Indexes: bulk_actions_pkey, bulk_parts_open.
UPDATE headrace.bulk_actions AS a SET status = 'COMPLETED', completed_at = headrace.clock()
WHERE a.environment_id = $1::integer AND a.id = $2::uuid AND a.status = 'PENDING'
    AND a.selected_at IS NOT NULL AND a.succeeded + a.failed = a.total
    AND NOT EXISTS (
        SELECT FROM headrace.bulk_parts AS p
        WHERE p.environment_id = $1::integer AND p.action_id = $2::uuid AND p.status = 'PENDING'
    )
RETURNING a.id
