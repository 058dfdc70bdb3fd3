-- The ids of a tree: a run and all below it; or a batch, its items and all below them; or a token of no run. A token of no run
-- that only runs of the tree have waited for goes with it. Returns those that were not known before. Indexes: runs_pkey,
-- runs_by_root, batches_by_root, tokens_by_run, journal_pkey, journal_foreign, tokens_pkey.
WITH tops AS MATERIALIZED (
    SELECT r.id FROM headrace.runs AS r WHERE $4::text = 'run' AND r.environment_id = $2::integer AND r.id = $3::uuid
    UNION ALL
    SELECT r.id FROM headrace.runs AS r
    WHERE $4::text = 'batch' AND r.environment_id = $2::integer AND r.batch_id = $3::uuid
        AND r.id BETWEEN headrace.item_run_id($3::uuid, 0) AND headrace.item_run_id($3::uuid, 2147483647)
),
runs AS MATERIALIZED (
    SELECT t.id FROM tops AS t
    UNION
    SELECT r.id FROM tops AS t JOIN headrace.runs AS r ON r.environment_id = $2::integer AND r.root_run_id = t.id
),
found AS (
    SELECT 'run' AS kind, r.id FROM runs AS r
    UNION ALL
    SELECT 'batch', b.id FROM headrace.batches AS b WHERE $4::text = 'batch' AND b.environment_id = $2::integer AND b.id = $3::uuid
    UNION ALL
    SELECT 'batch', b.id FROM tops AS t JOIN headrace.batches AS b ON b.environment_id = $2::integer AND b.root_run_id = t.id
    UNION ALL
    SELECT 'token', k.id FROM headrace.tokens AS k WHERE $4::text = 'token' AND k.environment_id = $2::integer AND k.id = $3::uuid
    UNION ALL
    SELECT 'token', k.id FROM runs AS r JOIN headrace.tokens AS k ON k.environment_id = $2::integer AND k.run_id = r.id
    UNION
    SELECT 'token', k.id
    FROM runs AS r
    JOIN headrace.journal AS j ON j.environment_id = $2::integer AND j.run_id = r.id AND j.kind = 'token'
    JOIN headrace.tokens AS k ON k.environment_id = $2::integer AND k.id = j.target AND k.run_id IS NULL
    WHERE NOT EXISTS (
        SELECT FROM headrace.journal AS o
        WHERE o.environment_id = $2::integer AND o.target = k.id AND o.target IS NOT NULL AND (NOT o.cascade OR o.kind = 'token')
            AND o.run_id NOT IN (SELECT own.id FROM runs AS own)
    )
)
INSERT INTO headrace.move_members (move_id, kind, id)
SELECT DISTINCT $1::uuid, f.kind, f.id FROM found AS f
ON CONFLICT (move_id, kind, id) DO NOTHING
RETURNING kind
