-- Members of a bulk action whose turn has not come, the oldest runs first. Index: bulk_members_open.
SELECT m.run_id FROM headrace.bulk_members AS m
WHERE m.environment_id = $1::integer AND m.action_id = $2::uuid AND m.succeeded IS NULL
ORDER BY m.run_id LIMIT $3::integer
