-- A worker's lease. Its number is never used again.
INSERT INTO headrace.workers (environment_id, name, version, started_at, lease_until, tasks, queues)
SELECT $1::integer, $2::text, $4::text, t.now, t.now + make_interval(secs => $3::float8), nullif($5::text[], '{}'), $6::text[]
FROM (SELECT headrace.clock() AS now) AS t
RETURNING id
