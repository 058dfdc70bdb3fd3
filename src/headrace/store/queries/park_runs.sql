-- What is queued of a tree whose runs are parked, and is not yet: from the commit on no claim meets it. Nobody is waited for. A run
-- that is to start within a time which may be over before it is let go ($2 seconds) is left. Indexes: parkings_by_move, runs_pkey,
-- runs_by_root.
WITH tops AS MATERIALIZED (
    SELECT p.environment_id, p.root_id FROM headrace.parkings AS p WHERE p.move_id = $1::uuid
),
members AS MATERIALIZED (
    SELECT t.environment_id, t.root_id AS id FROM tops AS t
    UNION ALL
    SELECT t.environment_id, r.id FROM tops AS t CROSS JOIN LATERAL (
        SELECT r.id FROM headrace.runs AS r
        WHERE r.environment_id = t.environment_id AND r.root_run_id = t.root_id AND r.status = 'QUEUED' AND r.parked IS NULL
    ) AS r
),
held AS MATERIALIZED (
    SELECT r.environment_id, r.id FROM members AS m CROSS JOIN LATERAL (
        SELECT r.environment_id, r.id FROM headrace.runs AS r
        WHERE r.environment_id = m.environment_id AND r.id = m.id AND r.status::text = 'QUEUED' AND r.parked IS NULL
            AND (r.expires_at IS NULL OR r.expires_at > headrace.clock() + make_interval(secs => $2::float8))
        FOR UPDATE SKIP LOCKED
    ) AS r
)
UPDATE headrace.runs AS r SET parked = r.ready_at, ready_at = 'infinity'
FROM (SELECT h.environment_id, h.id FROM held AS h OFFSET 0) AS h
WHERE r.environment_id = h.environment_id AND r.id = h.id
RETURNING r.id
