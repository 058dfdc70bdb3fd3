-- What the current versions of tasks declare. Where there is none, as of workers that name no version, what they say.
-- Indexes: tasks_pkey, declarations_pkey.
SELECT d.task, d.pattern, d.timezone, d.catch_up, d.options::text AS options, NULL AS external_id
FROM headrace.tasks AS t
JOIN headrace.declarations AS d
    ON d.environment_id = t.environment_id AND d.task = t.id AND d.version = coalesce(t.current_version, '')
WHERE t.environment_id = $1::integer AND t.id = ANY($2::text[])
