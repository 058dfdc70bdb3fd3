-- Takes the rows of a tree, which the caller has locked, out of their tables: from the commit on nothing here claims, ends, wakes,
-- cancels or shows any of it. What is a number of this store's is told by its name. Lanes of its batches hold nothing else.
-- Indexes: move_members_pkey, runs_pkey, batches_pkey, tokens_pkey, journal_pkey, attempts_pkey, batch_aliases_pkey,
-- dev_claims_pkey, lanes_by_batch, lanes_pkey, versions_pkey.
WITH member AS MATERIALIZED (
    SELECT m.kind, m.id FROM headrace.move_members AS m WHERE m.move_id = $1::uuid
),
runs AS (
    DELETE FROM headrace.runs AS r USING member AS m
    WHERE m.kind = 'run' AND r.environment_id = $2::integer AND r.id = m.id RETURNING r.*
),
batches AS (
    DELETE FROM headrace.batches AS b USING member AS m
    WHERE m.kind = 'batch' AND b.environment_id = $2::integer AND b.id = m.id RETURNING b.*
),
tokens AS (
    DELETE FROM headrace.tokens AS t USING member AS m
    WHERE m.kind = 'token' AND t.environment_id = $2::integer AND t.id = m.id RETURNING t.*
),
points AS (
    DELETE FROM headrace.journal AS j USING member AS m
    WHERE m.kind = 'run' AND j.environment_id = $2::integer AND j.run_id = m.id RETURNING j.*
),
attempts AS (
    DELETE FROM headrace.attempts AS a USING member AS m
    WHERE m.kind = 'run' AND a.environment_id = $2::integer AND a.run_id = m.id RETURNING a.*
),
aliases AS (
    DELETE FROM headrace.batch_aliases AS a USING member AS m
    WHERE m.kind = 'batch' AND a.environment_id = $2::integer AND a.batch_id = m.id RETURNING a.*
),
dev AS (
    DELETE FROM headrace.dev_claims AS d USING member AS m
    WHERE m.kind = 'run' AND d.environment_id = $2::integer AND d.run_id = m.id RETURNING d.*
),
held AS (
    DELETE FROM headrace.lanes AS l USING member AS m WHERE m.kind = 'batch' AND l.batch_id = m.id
),
forwarded AS (
    INSERT INTO headrace.forwards AS f (id, store, move_id)
    SELECT DISTINCT w.id, $3::text, $1::uuid FROM (
        SELECT r.id FROM runs AS r WHERE r.batch_id IS NULL
        UNION ALL SELECT b.id FROM batches AS b
        UNION ALL SELECT t.id FROM tokens AS t
    ) AS w
    ON CONFLICT (id) DO UPDATE SET store = EXCLUDED.store, move_id = EXCLUDED.move_id
    RETURNING f.id
)
INSERT INTO headrace.departures (move_id, kind, content)
SELECT $1::uuid, d.kind, d.content FROM (
    SELECT 'forward' AS kind, jsonb_build_object('id', f.id) AS content FROM forwarded AS f
    UNION ALL
    SELECT 'run', to_jsonb(r) || jsonb_build_object(
        'moved', true, 'counted_in', NULL, 'ready_at', coalesce(r.parked, r.ready_at), 'parked', NULL, 'version', v.version, 'lane', to_jsonb(l),
        'order_lane', CASE WHEN o.id IS NOT NULL THEN to_jsonb(o) END
    )
    FROM runs AS r
    CROSS JOIN LATERAL (SELECT l.* FROM headrace.lanes AS l WHERE l.id = r.lane_id LIMIT 1) AS l
    LEFT JOIN LATERAL (SELECT o.* FROM headrace.lanes AS o WHERE o.id = r.order_lane_id LIMIT 1) AS o ON true
    LEFT JOIN LATERAL (SELECT v.version FROM headrace.versions AS v WHERE v.id = r.version_id LIMIT 1) AS v ON true
    UNION ALL SELECT 'batch', to_jsonb(b) || '{"moved": true}' FROM batches AS b
    UNION ALL SELECT 'token', to_jsonb(t) || '{"moved": true}' FROM tokens AS t
    UNION ALL SELECT 'point', to_jsonb(j) FROM points AS j
    UNION ALL SELECT 'attempt', to_jsonb(a) FROM attempts AS a
    UNION ALL SELECT 'alias', to_jsonb(a) FROM aliases AS a
    UNION ALL SELECT 'dev', to_jsonb(d) FROM dev AS d
) AS d
