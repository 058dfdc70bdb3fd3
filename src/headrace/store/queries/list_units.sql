-- Runs, batches and tokens of a store from an id on, each with what it is, for whoever moves them all; the tree of each is asked for by
-- itself. Items and children are left out, but for those whose root is not here. Indexes: runs_pkey, batches_pkey, tokens_pkey.
(
    SELECT r.id FROM headrace.runs AS r
    WHERE r.environment_id = $1::integer AND r.id > $2::uuid AND r.id < $3::uuid AND r.batch_id IS NULL AND (
        r.root_run_id IS NULL OR NOT EXISTS (
            SELECT FROM headrace.runs AS o WHERE o.environment_id = r.environment_id AND o.id = r.root_run_id
        )
    )
    ORDER BY r.id LIMIT $4::integer
) UNION (
    SELECT b.id FROM headrace.batches AS b
    WHERE b.environment_id = $1::integer AND b.id > $2::uuid AND b.id < $3::uuid AND (
        b.root_run_id IS NULL OR NOT EXISTS (
            SELECT FROM headrace.runs AS o WHERE o.environment_id = b.environment_id AND o.id = b.root_run_id
        )
    )
    ORDER BY b.id LIMIT $4::integer
) UNION (
    SELECT t.id FROM headrace.tokens AS t
    WHERE t.environment_id = $1::integer AND t.id > $2::uuid AND t.id < $3::uuid AND t.run_id IS NULL
    ORDER BY t.id LIMIT $4::integer
)
ORDER BY 1 LIMIT $4::integer
