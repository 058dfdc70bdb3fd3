-- Runs of a batch that was to start at its seal and was aborted, a bounded number; one row without a run where nothing is
-- left of it to end. Indexes: batches_held, runs_pkey.
SELECT b.environment_id, b.id AS batch_id, q.id AS run_id
FROM (
    SELECT a.environment_id, a.id FROM headrace.batches AS a
    WHERE a.status = 'ABORTED' AND a.start_policy = 'seal' AND a.processing_completed_at IS NULL
    ORDER BY a.id LIMIT 1
) AS b LEFT JOIN LATERAL (
    SELECT r.id FROM headrace.runs AS r
    WHERE r.environment_id = b.environment_id AND r.batch_id = b.id AND r.status = 'QUEUED'
        AND r.id BETWEEN headrace.item_run_id(b.id, 0) AND headrace.item_run_id(b.id, 2147483647)
    ORDER BY r.id LIMIT $1::integer
) AS q ON true
