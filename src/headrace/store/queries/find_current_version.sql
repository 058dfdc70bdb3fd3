-- The version that became the current one last, of those that are any task's current one. Index: tasks_pkey.
SELECT v.version
FROM headrace.versions AS v
WHERE v.environment_id = $1::integer AND EXISTS (
    SELECT FROM headrace.tasks AS t WHERE t.environment_id = v.environment_id AND t.current_version = v.version
)
ORDER BY v.promoted_at DESC NULLS LAST, v.id DESC LIMIT 1
