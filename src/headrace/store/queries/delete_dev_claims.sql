-- What was done with goes. Index: dev_claims_pkey.
DELETE FROM headrace.dev_claims AS c
WHERE c.environment_id = $1::integer AND c.session_id = $2::uuid AND c.run_id = ANY($3::uuid[])
