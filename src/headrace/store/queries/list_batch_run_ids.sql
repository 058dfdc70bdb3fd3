-- The runs of a batch in the order of its items, each once. Indexes: runs_pkey, batch_aliases_pkey.
SELECT p.id
FROM (
    SELECT r.batch_index AS index, r.id FROM headrace.runs AS r
    WHERE r.environment_id = $1::integer AND r.batch_id = $2::uuid
        AND r.id BETWEEN headrace.item_run_id($2::uuid, 0) AND headrace.item_run_id($2::uuid, 2147483647)
    UNION ALL
    SELECT a.batch_index, a.run_id FROM headrace.batch_aliases AS a
    WHERE a.environment_id = $1::integer AND a.batch_id = $2::uuid
) AS p
GROUP BY p.id ORDER BY min(p.index)
