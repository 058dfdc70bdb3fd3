-- A session's claims of runs that have ended are of no use any more. Indexes: dev_claims_by_session, runs_pkey.
DELETE FROM headrace.dev_claims AS c
USING (
    SELECT d.environment_id, d.run_id FROM headrace.dev_claims AS d
    WHERE d.environment_id = $1::integer AND d.session_id = $2::uuid AND EXISTS (
        SELECT FROM headrace.runs AS r
        WHERE r.environment_id = d.environment_id AND r.id = d.run_id AND r.finished_at IS NOT NULL
    )
    LIMIT $3::integer
) AS f
WHERE c.environment_id = f.environment_id AND c.run_id = f.run_id AND c.session_id = $2::uuid
