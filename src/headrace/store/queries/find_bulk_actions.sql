-- Bulk actions, or parts of them, as they stand in this store. Index: bulk_actions_pkey.
SELECT a.id, a.status, a.selected_at IS NOT NULL AS selected, a.total, a.succeeded, a.failed
FROM headrace.bulk_actions AS a
WHERE a.environment_id = $1::integer AND a.id = ANY($2::uuid[])
