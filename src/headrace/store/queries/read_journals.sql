-- The journals of runs that are taken up again, with the outcomes that they have. Indexes: journal_pkey, runs_pkey,
-- batches_pkey, tokens_pkey.
SELECT o.* FROM headrace.point_outcomes AS o
WHERE o.environment_id = $1::integer AND o.run_id = ANY($2::uuid[])
