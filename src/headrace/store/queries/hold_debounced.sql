-- Holds the run that a debounce key stands for, if it is delayed still: until the transaction ends no claim takes it. within: its
-- new time is no later than the longest wait ($4, seconds from when it was made; NULL: any) allows. Index: runs_pkey.
SELECT r.id, $4::float8 IS NULL OR headrace.clock() + make_interval(secs => $3::float8) <= r.created_at + make_interval(secs => $4::float8) AS within,
    headrace.clock() + make_interval(secs => $3::float8) >= r.delayed_until + make_interval(secs => $5::float8) AS moves,
    r.payload_type, CASE WHEN r.payload_type = $6::text THEN r.payload END AS payload
FROM headrace.runs AS r
WHERE r.environment_id = $1::integer AND r.id = $2::uuid AND r.status = 'QUEUED' AND r.attempt = 0 AND r.delayed_until > headrace.clock()
FOR UPDATE
