-- Versions and their tasks are as home has them ($1, JSON rows); their numbers are each store's own, in home's order. Returns those that
-- were not. Indexes: versions_environment_id_version_key, version_tasks_pkey.
WITH home AS MATERIALIZED (
    SELECT h.* FROM ROWS FROM (jsonb_to_recordset($1::jsonb) AS (
        environment_id integer, version text, first_seen_at timestamptz, last_seen_at timestamptz, promoted_at timestamptz, tasks jsonb
    )) WITH ORDINALITY AS h (environment_id, version, first_seen_at, last_seen_at, promoted_at, tasks, place)
),
written AS (
    INSERT INTO headrace.versions AS v (environment_id, version, first_seen_at, last_seen_at, promoted_at)
    SELECT h.environment_id, h.version, h.first_seen_at, h.last_seen_at, h.promoted_at FROM home AS h ORDER BY h.place
    ON CONFLICT (environment_id, version) DO UPDATE SET promoted_at = EXCLUDED.promoted_at
    WHERE v.promoted_at IS DISTINCT FROM EXCLUDED.promoted_at
    RETURNING v.id, v.environment_id, v.version
),
known AS (
    SELECT w.id, w.environment_id, w.version FROM written AS w
    UNION -- those that were there before
    SELECT v.id, v.environment_id, v.version
    FROM home AS h CROSS JOIN LATERAL (
        SELECT v.id, v.environment_id, v.version FROM headrace.versions AS v
        WHERE v.environment_id = h.environment_id AND v.version = h.version LIMIT 1
    ) AS v
),
added AS (
    INSERT INTO headrace.version_tasks (version_id, task, first_seen_at)
    SELECT k.id, t.key, t.value::timestamptz
    FROM home AS h JOIN known AS k ON k.environment_id = h.environment_id AND k.version = h.version
    CROSS JOIN LATERAL jsonb_each_text(h.tasks) AS t ORDER BY k.id, t.key
    ON CONFLICT (version_id, task) DO NOTHING
    RETURNING version_id
)
SELECT DISTINCT k.environment_id, k.version
FROM known AS k
WHERE k.id IN (SELECT w.id FROM written AS w UNION SELECT a.version_id FROM added AS a)
