-- Whose runs these are that a worker of `headrace dev` has just claimed; the session is there from now on, if it was not.
-- Indexes: dev_claims_pkey, dev_sessions_pkey.
WITH session AS (
    INSERT INTO headrace.dev_sessions (environment_id, id, kept_until)
    VALUES ($1::integer, $2::uuid, headrace.clock() + make_interval(secs => $3::float8))
    ON CONFLICT (environment_id, id) DO NOTHING
)
INSERT INTO headrace.dev_claims (environment_id, run_id, session_id, attempt)
SELECT $1::integer, c.run_id, $2::uuid, c.attempt FROM unnest($4::uuid[], $5::integer[]) AS c (run_id, attempt)
ON CONFLICT (environment_id, run_id) DO UPDATE SET session_id = EXCLUDED.session_id, attempt = EXCLUDED.attempt
