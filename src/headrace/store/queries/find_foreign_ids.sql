-- The ids that imported runs came with. Index: runs_pkey.
SELECT r.id, r.options ->> 'foreignId' AS text
FROM headrace.runs AS r
WHERE r.environment_id = $1::integer AND r.id = ANY($2::uuid[])
