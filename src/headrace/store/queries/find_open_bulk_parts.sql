-- Parts of bulk actions that are not over, as was last seen, and what they are parts of: of one action ($1, $2) or, with NULL,
-- of all, the oldest first. Indexes: bulk_parts_open, bulk_actions_pkey.
SELECT p.environment_id, p.action_id, p.store, p.run_ids, a.kind, a.name, a.filter::text AS filter, a.created_at,
    a.status = 'PENDING' AS wanted
FROM headrace.bulk_parts AS p
JOIN headrace.bulk_actions AS a ON a.environment_id = p.environment_id AND a.id = p.action_id
WHERE p.status = 'PENDING'
    AND ($1::integer IS NULL OR p.environment_id = $1::integer) AND ($2::uuid IS NULL OR p.action_id = $2::uuid)
ORDER BY a.created_at, a.id, p.store LIMIT 1000
