-- What stays here of a tree that leaves: how those of its runs and tokens have ended whose end somebody else was told, so that he
-- can be told again. One that is told of it by mail as well goes on waiting for that. Each member is asked for by itself (LIMIT).
-- Indexes: move_members_pkey, runs_pkey, lanes_pkey, tokens_pkey, journal_foreign, batch_aliases_by_run, mirrors_pkey.
INSERT INTO headrace.mirrors AS f (environment_id, id, kind, status, task, output, output_type, error, made_at, resolved_at)
SELECT $2::integer, m.id, m.kind, coalesce(r.status::text, t.status::text), l.task, coalesce(r.output, t.output),
    coalesce(r.output_type, t.output_type), r.error, headrace.clock(), headrace.clock()
FROM headrace.move_members AS m
LEFT JOIN LATERAL (
    SELECT r.* FROM headrace.runs AS r WHERE m.kind = 'run' AND r.environment_id = $2::integer AND r.id = m.id LIMIT 1
) AS r ON true
LEFT JOIN LATERAL (SELECT l.task FROM headrace.lanes AS l WHERE l.id = r.lane_id LIMIT 1) AS l ON true
LEFT JOIN LATERAL (
    SELECT t.* FROM headrace.tokens AS t WHERE m.kind = 'token' AND t.environment_id = $2::integer AND t.id = m.id LIMIT 1
) AS t ON true
WHERE m.move_id = $1::uuid AND (r.finished_at IS NOT NULL OR t.completed_at IS NOT NULL) AND (
    coalesce((
        SELECT true FROM headrace.journal AS j
        WHERE j.environment_id = $2::integer AND j.target = m.id AND j.target IS NOT NULL AND (NOT j.cascade OR j.kind = 'token')
            AND NOT EXISTS (SELECT FROM headrace.move_members AS o WHERE o.move_id = $1::uuid AND o.kind = 'run' AND o.id = j.run_id)
        LIMIT 1
    ), false) OR coalesce((
        SELECT true FROM headrace.batch_aliases AS a
        WHERE m.kind = 'run' AND a.environment_id = $2::integer AND a.run_id = m.id
            AND NOT EXISTS (SELECT FROM headrace.move_members AS o WHERE o.move_id = $1::uuid AND o.kind = 'batch' AND o.id = a.batch_id)
        LIMIT 1
    ), false)
)
ON CONFLICT (environment_id, id, kind) DO UPDATE
SET status = EXCLUDED.status, task = EXCLUDED.task, output = EXCLUDED.output, output_type = EXCLUDED.output_type, error = EXCLUDED.error
WHERE f.status IS NULL
