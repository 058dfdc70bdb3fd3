-- Which of these runs there are. Index: runs_pkey.
SELECT r.id FROM headrace.runs AS r WHERE r.environment_id = $1::integer AND r.id = ANY($2::uuid[])
