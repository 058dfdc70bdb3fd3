-- How these items of a batch ended. Indexes: runs_pkey, batch_aliases_pkey.
SELECT w.item_index, r.id, l.task, r.status, r.output, r.output_type, r.error::text AS error
FROM (
    SELECT i.index AS item_index, coalesce(a.run_id, headrace.item_run_id($2::uuid, i.index)) AS id
    FROM unnest($3::integer[]) AS i (index)
    LEFT JOIN headrace.batch_aliases AS a
        ON a.environment_id = $1::integer AND a.batch_id = $2::uuid AND a.batch_index = i.index
) AS w
JOIN headrace.runs AS r ON r.environment_id = $1::integer AND r.id = w.id
JOIN headrace.lanes AS l ON l.id = r.lane_id
