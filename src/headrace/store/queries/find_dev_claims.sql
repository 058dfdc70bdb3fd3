-- Runs that a session's workers have claimed. Index: dev_claims_by_session.
SELECT c.run_id FROM headrace.dev_claims AS c
WHERE c.environment_id = $1::integer AND c.session_id = $2::uuid ORDER BY c.run_id LIMIT $3::integer
