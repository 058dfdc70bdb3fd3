-- Lets go what is parked and belongs to no tree that is: a part of it, from a place on ($1, $2). Whoever parked it had seen a mark that
-- was taken away meanwhile, or it was taken away just now. The last row says how far it looked; fewer than $3 were there to look at
-- where it says nothing. Indexes: runs_parked, parkings_pkey, runs_pkey.
WITH looked AS MATERIALIZED (
    SELECT r.environment_id, r.id, coalesce(r.root_run_id, r.id) AS root_id FROM headrace.runs AS r
    WHERE r.parked IS NOT NULL AND (r.environment_id, r.id) > ($1::integer, $2::uuid)
    ORDER BY r.environment_id, r.id LIMIT $3::integer
),
free AS MATERIALIZED (
    SELECT r.environment_id, r.id FROM looked AS l CROSS JOIN LATERAL (
        SELECT r.environment_id, r.id FROM headrace.runs AS r
        WHERE r.environment_id = l.environment_id AND r.id = l.id AND r.parked IS NOT NULL
        FOR UPDATE SKIP LOCKED
    ) AS r
    WHERE NOT EXISTS (
        SELECT FROM headrace.parkings AS p WHERE p.environment_id = l.environment_id AND p.root_id = l.root_id
    )
),
released AS (
    UPDATE headrace.runs AS r SET ready_at = r.parked, parked = NULL
    FROM (SELECT f.environment_id, f.id FROM free AS f OFFSET 0) AS f
    WHERE r.environment_id = f.environment_id AND r.id = f.id AND r.parked IS NOT NULL
    RETURNING r.environment_id
)
SELECT l.environment_id, l.id, n.looked, n.released,
    ARRAY(SELECT DISTINCT r.environment_id FROM released AS r) AS environments
FROM (SELECT count(*)::integer AS looked, (SELECT count(*)::integer FROM released) AS released FROM looked) AS n
LEFT JOIN LATERAL (SELECT l.environment_id, l.id FROM looked AS l ORDER BY l.environment_id DESC, l.id DESC LIMIT 1) AS l ON true
