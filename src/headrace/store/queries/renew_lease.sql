-- Renews a lease that is not over. Index: workers_pkey.
UPDATE headrace.workers SET lease_until = headrace.clock() + make_interval(secs => $2::float8)
WHERE id = $1::bigint AND ended_at IS NULL
RETURNING id
