-- Those of these runs that are here, kept from being moved until the transaction ends. Index: runs_pkey.
SELECT r.id FROM headrace.runs AS r
WHERE r.environment_id = $1::integer AND r.id = ANY($2::uuid[])
ORDER BY r.id
FOR KEY SHARE
