-- Ended items of a batch that stand for runs of other stores, from one index on, in order: without those that were moved here since.
-- Indexes: batch_aliases_pkey, mirrors_pkey, runs_pkey.
SELECT a.batch_index AS item_index, a.run_id
FROM headrace.batch_aliases AS a
JOIN headrace.mirrors AS m ON m.environment_id = a.environment_id AND m.id = a.run_id AND m.kind = 'run'
WHERE a.environment_id = $1::integer AND a.batch_id = $2::uuid AND a.batch_index >= $3::integer AND a.settled
    AND m.status IS NOT NULL
    AND NOT EXISTS (SELECT FROM headrace.runs AS r WHERE r.environment_id = $1::integer AND r.id = a.run_id)
ORDER BY a.batch_index LIMIT $4::integer
