-- Locks a run, whatever its status, to add tags to it. Index: runs_pkey.
SELECT (r.options -> 'tags')::text AS tags FROM headrace.runs AS r
WHERE r.environment_id = $1::integer AND r.id = $2::uuid
FOR NO KEY UPDATE
