-- What a run shows of itself. Index: runs_pkey.
SELECT r.metadata::text AS metadata, (r.options -> 'metadata')::text AS initial FROM headrace.runs AS r
WHERE r.environment_id = $1::integer AND r.id = $2::uuid
