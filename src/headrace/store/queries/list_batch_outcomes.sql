-- How items of a batch ended, from one index on, in order: without their payloads. Of items that stand for
-- runs of other stores the mirrors say it, but for those that were moved here since. Indexes: runs_pkey, batch_aliases_pkey, mirrors_pkey.
(
    SELECT p.item_index, r.id, l.task, r.status::text AS status, r.output, r.output_type, r.error::text AS error
    FROM (
        (
            SELECT o.batch_index AS item_index, o.id FROM headrace.runs AS o
            WHERE o.environment_id = $1::integer AND o.batch_id = $2::uuid AND o.finished_at IS NOT NULL
                AND o.id BETWEEN headrace.item_run_id($2::uuid, $3::integer) AND headrace.item_run_id($2::uuid, 2147483647)
            ORDER BY o.id LIMIT $4::integer
        )
        UNION ALL
        (
            SELECT a.batch_index, a.run_id FROM headrace.batch_aliases AS a
            WHERE a.environment_id = $1::integer AND a.batch_id = $2::uuid AND a.batch_index >= $3::integer AND a.settled
            ORDER BY a.batch_index LIMIT $4::integer
        )
    ) AS p
    JOIN headrace.runs AS r ON r.environment_id = $1::integer AND r.id = p.id
    JOIN headrace.lanes AS l ON l.id = r.lane_id
)
UNION ALL
(
    SELECT a.batch_index, m.id, m.task, m.status, m.output, m.output_type, m.error::text
    FROM headrace.batch_aliases AS a
    JOIN headrace.mirrors AS m ON m.environment_id = a.environment_id AND m.id = a.run_id AND m.kind = 'run'
    WHERE a.environment_id = $1::integer AND a.batch_id = $2::uuid AND a.batch_index >= $3::integer AND a.settled
        AND m.status IS NOT NULL
        AND NOT EXISTS (SELECT FROM headrace.runs AS r WHERE r.environment_id = $1::integer AND r.id = a.run_id)
    ORDER BY a.batch_index LIMIT $4::integer
)
ORDER BY item_index LIMIT $4::integer
