-- Locks a run, whatever its status, to change what is shown of it. What it ended longer ago than $3 seconds is closed.
-- Index: runs_pkey.
SELECT r.metadata::text AS metadata, (r.options -> 'metadata')::text AS initial,
    coalesce(r.finished_at < headrace.clock() - make_interval(secs => $3::float8), false) AS closed
FROM headrace.runs AS r
WHERE r.environment_id = $1::integer AND r.id = $2::uuid
FOR NO KEY UPDATE
