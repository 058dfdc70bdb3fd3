-- Runs of a batch that have not ended, a bounded number, in order. Items that stand for runs of others are not among them.
-- Index: runs_pkey.
SELECT r.id FROM headrace.runs AS r
WHERE r.environment_id = $1::integer AND r.batch_id = $2::uuid AND r.finished_at IS NULL
    AND r.id BETWEEN headrace.item_run_id($2::uuid, 0) AND headrace.item_run_id($2::uuid, 2147483647)
ORDER BY r.id LIMIT $3::integer
