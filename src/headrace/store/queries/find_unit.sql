-- What a run, batch or token ($1) of any environment belongs to. A batch and its first item have one id. Indexes: runs_pkey,
-- batches_pkey, tokens_pkey, a probe an environment.
SELECT e.id AS environment_id, r.id AS run_id, r.batch_id, o.id AS root_id, o.batch_id AS root_batch_id,
    b.id AS own_batch_id, coalesce(b.root_run_id, b.parent_run_id) AS above_batch_id, t.id AS token_id, t.run_id AS token_run_id
FROM headrace.environments AS e
LEFT JOIN LATERAL (SELECT r.id, r.batch_id, r.root_run_id FROM headrace.runs AS r WHERE r.environment_id = e.id AND r.id = $1::uuid LIMIT 1) AS r ON true
LEFT JOIN LATERAL (SELECT o.id, o.batch_id FROM headrace.runs AS o WHERE o.environment_id = e.id AND o.id = r.root_run_id LIMIT 1) AS o ON true
LEFT JOIN LATERAL (
    SELECT b.id, b.root_run_id, b.parent_run_id FROM headrace.batches AS b WHERE b.environment_id = e.id AND b.id = $1::uuid LIMIT 1
) AS b ON true
LEFT JOIN LATERAL (SELECT t.id, t.run_id FROM headrace.tokens AS t WHERE t.environment_id = e.id AND t.id = $1::uuid LIMIT 1) AS t ON true
WHERE r.id IS NOT NULL OR b.id IS NOT NULL OR t.id IS NOT NULL
LIMIT 1
