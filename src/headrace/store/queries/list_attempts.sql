-- The ended attempts of a run. Index: attempts_pkey.
SELECT number, status, started_at, finished_at, error::text AS error
FROM headrace.attempts WHERE environment_id = $1::integer AND run_id = $2::uuid ORDER BY number
