-- A session that is over. Index: dev_sessions_pkey.
DELETE FROM headrace.dev_sessions AS s WHERE s.environment_id = $1::integer AND s.id = $2::uuid
