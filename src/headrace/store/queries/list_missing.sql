-- The gaps between the items of a batch, as inclusive ranges, the first thousand. Reads the batch's part of the primary
-- key, so it is asked only when a stream has ended and left something out. Indexes: runs_pkey, batch_aliases_pkey.
SELECT g.first, g.last
FROM (
    SELECT p.index + 1 AS first, lead(p.index, 1, $3::integer) OVER (ORDER BY p.index) - 1 AS last
    FROM (
        SELECT -1 AS index
        UNION ALL
        SELECT r.batch_index FROM headrace.runs AS r
        WHERE r.environment_id = $1::integer AND r.batch_id = $2::uuid
            AND r.id BETWEEN headrace.item_run_id($2::uuid, 0) AND headrace.item_run_id($2::uuid, 2147483647)
        UNION ALL
        SELECT a.batch_index FROM headrace.batch_aliases AS a
        WHERE a.environment_id = $1::integer AND a.batch_id = $2::uuid
    ) AS p
) AS g
WHERE g.first <= g.last
ORDER BY g.first LIMIT 1000
