-- How many schedules there are. Index: schedules_pkey.
SELECT count(*) AS count
FROM headrace.schedules AS s WHERE s.environment_id = $1::integer AND ($2::text IS NULL OR s.task = $2::text)
