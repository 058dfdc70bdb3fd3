-- Bulk actions under way, the oldest first. Index: bulk_actions_pending.
SELECT a.environment_id, a.id FROM headrace.bulk_actions AS a
WHERE a.status = 'PENDING' ORDER BY a.created_at, a.id LIMIT 100
