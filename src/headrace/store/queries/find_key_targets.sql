-- Of what keys stand for: which are there, and for a run its status. Indexes: runs_pkey, batches_pkey, tokens_pkey.
SELECT t.id, r.status::text AS run_status,
    r.id IS NOT NULL
    OR EXISTS (SELECT FROM headrace.batches AS b WHERE b.environment_id = $1::integer AND b.id = t.id)
    OR EXISTS (SELECT FROM headrace.tokens AS o WHERE o.environment_id = $1::integer AND o.id = t.id) AS found
FROM unnest($2::uuid[]) AS t (id)
LEFT JOIN LATERAL (
    SELECT r.id, r.status FROM headrace.runs AS r WHERE r.environment_id = $1::integer AND r.id = t.id LIMIT 1
) AS r ON true
