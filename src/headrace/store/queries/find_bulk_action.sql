-- A bulk action as it stands. With what was seen of its parts in other stores.
-- Indexes: bulk_actions_pkey, bulk_parts_pkey.
SELECT a.id, a.kind, a.status, a.name, a.filter::text AS filter, a.selected_at, a.total, a.succeeded, a.failed, a.created_at,
    a.completed_at,
    (
        SELECT json_agg(json_build_object(
            'store', p.store, 'status', p.status, 'selected', p.selected, 'total', p.total, 'succeeded', p.succeeded,
            'failed', p.failed
        ))
        FROM headrace.bulk_parts AS p WHERE p.environment_id = a.environment_id AND p.action_id = a.id
    )::text AS parts
FROM headrace.bulk_actions AS a
WHERE a.environment_id = $1::integer AND a.id = $2::uuid
