-- The fence of a write, as hold_run, where the run's own metadata or tags are changed. Index: runs_pkey.
SELECT r.metadata::text AS metadata, (r.options -> 'metadata')::text AS initial, (r.options -> 'tags')::text AS tags,
    coalesce(r.metadata_write, 0) AS metadata_write
FROM headrace.runs AS r
WHERE r.environment_id = $1::integer AND r.id = $2::uuid AND r.attempt = $3::integer AND r.worker_id + 0 = $4::bigint
    AND r.status::text = 'EXECUTING'
FOR NO KEY UPDATE
