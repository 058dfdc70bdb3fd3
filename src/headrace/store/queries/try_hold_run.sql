-- As hold_run, for a transaction that holds a run above this one: it waits for nobody. Whether the run is held, or only is
-- somebody else's at this moment; no row where it is lost. Index: runs_pkey.
WITH held AS (
    SELECT r.id FROM headrace.runs AS r
    WHERE r.environment_id = $1::integer AND r.id = $2::uuid AND r.attempt = $3::integer AND r.worker_id + 0 = $4::bigint
        AND r.status::text = 'EXECUTING'
    FOR SHARE SKIP LOCKED
)
SELECT EXISTS (SELECT FROM held) AS held
FROM headrace.runs AS r
WHERE r.environment_id = $1::integer AND r.id = $2::uuid AND r.attempt = $3::integer AND r.worker_id + 0 = $4::bigint
    AND r.status::text = 'EXECUTING'
