-- How runs and tokens stand that another store waits for, with what they ended with, and whether that store ($3) is to be told
-- by the outbox. LIMIT 1 keeps the planner to a probe each. Indexes: runs_pkey, lanes_pkey, tokens_pkey, outbox_by_target.
SELECT s.*, coalesce((
    SELECT true FROM headrace.outbox AS o
    WHERE o.environment_id = $1::integer AND o.target_id = s.id AND o.store = $3::text AND o.kind = 'end' LIMIT 1
), false) AS sent
FROM (
    SELECT r.id, 'run' AS kind, r.finished_at IS NOT NULL AS ended, r.status::text AS status, l.task, r.output, r.output_type,
        r.error::text AS error
    FROM headrace.runs AS r JOIN headrace.lanes AS l ON l.id = r.lane_id
    WHERE r.environment_id = $1::integer AND r.id = ANY($2::uuid[])
    UNION ALL
    SELECT t.id, 'token', t.status <> 'WAITING', t.status::text, NULL, t.output, t.output_type, NULL
    FROM headrace.tokens AS t WHERE t.environment_id = $1::integer AND t.id = ANY($2::uuid[])
) AS s
