-- The parent and the root of a run, as its row names them, and whether they are there. Index: runs_pkey.
SELECT r.parent_run_id, r.root_run_id, p.id IS NOT NULL AS has_parent, o.id IS NOT NULL AS has_root
FROM headrace.runs AS r
LEFT JOIN LATERAL (
    SELECT q.id FROM headrace.runs AS q WHERE q.environment_id = r.environment_id AND q.id = r.parent_run_id LIMIT 1
) AS p ON true
LEFT JOIN LATERAL (
    SELECT q.id FROM headrace.runs AS q WHERE q.environment_id = r.environment_id AND q.id = r.root_run_id LIMIT 1
) AS o ON true
WHERE r.environment_id = $1::integer AND r.id = $2::uuid
