-- A bulk action as it stands. Index: bulk_actions_pkey.
SELECT a.id, a.kind, a.status, a.name, a.filter::text AS filter, a.selected_at, a.total, a.succeeded, a.failed, a.created_at,
    a.completed_at
FROM headrace.bulk_actions AS a
WHERE a.environment_id = $1::integer AND a.id = $2::uuid
