-- Of what keys stand for: which are there, for a run with its status, and which were and have been moved since.
-- Indexes: runs_pkey, batches_pkey, tokens_pkey, forwards_pkey.
SELECT t.id, r.status::text AS run_status,
    r.id IS NOT NULL
    OR EXISTS (SELECT FROM headrace.batches AS b WHERE b.environment_id = $1::integer AND b.id = t.id)
    OR EXISTS (SELECT FROM headrace.tokens AS o WHERE o.environment_id = $1::integer AND o.id = t.id) AS found,
    EXISTS (SELECT FROM headrace.forwards AS f WHERE f.id IN (t.id, headrace.item_run_id(t.id, 0))) AS moved
FROM unnest($2::uuid[]) AS t (id)
LEFT JOIN LATERAL (
    SELECT r.id, r.status FROM headrace.runs AS r WHERE r.environment_id = $1::integer AND r.id = t.id LIMIT 1
) AS r ON true
