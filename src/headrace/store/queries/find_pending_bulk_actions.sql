-- Bulk actions under way, the oldest first; none of which nothing is left but parts in other stores.
-- Indexes: bulk_actions_pending, bulk_parts_open.
SELECT a.environment_id, a.id FROM headrace.bulk_actions AS a
WHERE a.status = 'PENDING' AND NOT (
    a.selected_at IS NOT NULL AND a.succeeded + a.failed = a.total AND EXISTS (
        SELECT FROM headrace.bulk_parts AS p
        WHERE p.environment_id = a.environment_id AND p.action_id = a.id AND p.status = 'PENDING'
    )
)
ORDER BY a.created_at, a.id LIMIT 100
