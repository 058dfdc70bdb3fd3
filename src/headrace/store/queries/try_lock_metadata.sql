-- As lock_metadata, for a transaction that holds a lock already: it waits for nobody, and finds nothing where somebody
-- else holds the run. Index: runs_pkey.
SELECT r.metadata::text AS metadata, (r.options -> 'metadata')::text AS initial,
    coalesce(r.finished_at < headrace.clock() - make_interval(secs => $3::float8), false) AS closed
FROM headrace.runs AS r
WHERE r.environment_id = $1::integer AND r.id = $2::uuid
FOR NO KEY UPDATE SKIP LOCKED
