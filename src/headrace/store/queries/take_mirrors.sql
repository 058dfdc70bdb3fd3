-- What a tree takes along of what is not in it: how runs and tokens have ended that its own were told of. Indexes:
-- move_members_pkey, journal_pkey, batch_aliases_pkey, runs_pkey, tokens_pkey, mirrors_pkey.
WITH told AS MATERIALIZED (
    SELECT DISTINCT j.kind::text AS kind, j.target AS id
    FROM headrace.move_members AS m CROSS JOIN LATERAL (
        SELECT j.kind, j.target FROM headrace.journal AS j
        WHERE j.environment_id = $2::integer AND j.run_id = m.id AND j.kind IN ('run', 'token') AND j.target IS NOT NULL
        OFFSET 0
    ) AS j
    WHERE m.move_id = $1::uuid AND m.kind = 'run'
    UNION
    SELECT 'run', a.run_id
    FROM headrace.move_members AS m
    JOIN headrace.batch_aliases AS a ON a.environment_id = $2::integer AND a.batch_id = m.id
    WHERE m.move_id = $1::uuid AND m.kind = 'batch'
)
INSERT INTO headrace.departures (move_id, kind, content)
SELECT $1::uuid, 'mirror', jsonb_build_object(
    'environment_id', $2::integer, 'id', k.id, 'kind', k.kind, 'status', coalesce(r.status::text, t.status::text, f.status),
    'task', coalesce(l.task, f.task), 'output', coalesce(r.output, t.output, f.output),
    'output_type', coalesce(r.output_type, t.output_type, f.output_type), 'error', coalesce(r.error, f.error),
    'made_at', headrace.clock(), 'resolved_at', headrace.clock()
)
FROM told AS k
LEFT JOIN LATERAL (
    SELECT r.* FROM headrace.runs AS r WHERE k.kind = 'run' AND r.environment_id = $2::integer AND r.id = k.id LIMIT 1
) AS r ON true
LEFT JOIN LATERAL (SELECT l.task FROM headrace.lanes AS l WHERE l.id = r.lane_id LIMIT 1) AS l ON true
LEFT JOIN LATERAL (
    SELECT t.* FROM headrace.tokens AS t WHERE k.kind = 'token' AND t.environment_id = $2::integer AND t.id = k.id LIMIT 1
) AS t ON true
LEFT JOIN LATERAL (
    SELECT f.* FROM headrace.mirrors AS f
    WHERE r.id IS NULL AND t.id IS NULL AND f.environment_id = $2::integer AND f.id = k.id AND f.kind = k.kind LIMIT 1
) AS f ON true
WHERE (r.finished_at IS NOT NULL OR t.completed_at IS NOT NULL OR f.status IS NOT NULL) AND NOT EXISTS (
    SELECT FROM headrace.move_members AS o WHERE o.move_id = $1::uuid AND o.kind = k.kind AND o.id = k.id
)
