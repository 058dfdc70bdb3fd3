-- Those of these runs that a session's workers claimed last, and that have not ended. Indexes: dev_claims_pkey, runs_pkey.
SELECT r.id FROM headrace.dev_claims AS c
JOIN headrace.runs AS r ON r.environment_id = c.environment_id AND r.id = c.run_id
WHERE c.environment_id = $1::integer AND c.run_id = ANY($3::uuid[]) AND c.session_id = $2::uuid
    AND r.attempt = c.attempt AND r.finished_at IS NULL
