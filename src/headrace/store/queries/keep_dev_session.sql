-- Moves on until when a session of `headrace dev` is there. No row where its time is over already. Index: dev_sessions_pkey.
UPDATE headrace.dev_sessions AS s SET kept_until = headrace.clock() + make_interval(secs => $3::float8)
WHERE s.environment_id = $1::integer AND s.id = $2::uuid AND s.kept_until > headrace.clock()
RETURNING s.id
