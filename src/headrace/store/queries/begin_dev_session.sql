-- A session of `headrace dev`, unless it is there. Index: dev_sessions_pkey.
INSERT INTO headrace.dev_sessions (environment_id, id, kept_until)
VALUES ($1::integer, $2::uuid, headrace.clock() + make_interval(secs => $3::float8))
ON CONFLICT (environment_id, id) DO NOTHING
RETURNING id
