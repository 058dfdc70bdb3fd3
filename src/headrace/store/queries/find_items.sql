-- Which of these items of a batch are there already, as runs or as aliases. The caller holds the batch's row.
-- Indexes: runs_pkey, batch_aliases_pkey.
SELECT i.index
FROM unnest($3::integer[]) AS i (index)
WHERE EXISTS (
    SELECT FROM headrace.runs AS r
    WHERE r.environment_id = $1::integer AND r.id = headrace.item_run_id($2::uuid, i.index)
) OR EXISTS (
    SELECT FROM headrace.batch_aliases AS a
    WHERE a.environment_id = $1::integer AND a.batch_id = $2::uuid AND a.batch_index = i.index
)
