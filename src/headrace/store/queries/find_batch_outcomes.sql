-- How these items of a batch ended; those that stand for runs of other stores as their mirrors say,
-- but for those that were moved here since.
-- Indexes: runs_pkey, batch_aliases_pkey, mirrors_pkey.
SELECT w.item_index, r.id, l.task, r.status::text AS status, r.output, r.output_type, r.error::text AS error
FROM (
    SELECT i.index AS item_index, coalesce(a.run_id, headrace.item_run_id($2::uuid, i.index)) AS id
    FROM unnest($3::integer[]) AS i (index)
    LEFT JOIN headrace.batch_aliases AS a
        ON a.environment_id = $1::integer AND a.batch_id = $2::uuid AND a.batch_index = i.index
) AS w
JOIN headrace.runs AS r ON r.environment_id = $1::integer AND r.id = w.id
JOIN headrace.lanes AS l ON l.id = r.lane_id
UNION ALL
SELECT a.batch_index, m.id, m.task, m.status, m.output, m.output_type, m.error::text
FROM headrace.batch_aliases AS a
JOIN headrace.mirrors AS m ON m.environment_id = a.environment_id AND m.id = a.run_id AND m.kind = 'run'
WHERE a.environment_id = $1::integer AND a.batch_id = $2::uuid AND a.batch_index = ANY($3::integer[]) AND m.status IS NOT NULL
    AND NOT EXISTS (SELECT FROM headrace.runs AS r WHERE r.environment_id = $1::integer AND r.id = a.run_id)
