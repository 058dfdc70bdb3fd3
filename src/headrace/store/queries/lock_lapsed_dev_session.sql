-- A session of `headrace dev`, held to the end of the transaction, where its time is over. Index: dev_sessions_pkey.
SELECT s.id FROM headrace.dev_sessions AS s
WHERE s.environment_id = $1::integer AND s.id = $2::uuid AND s.kept_until <= headrace.clock() FOR UPDATE
