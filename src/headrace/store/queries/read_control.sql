-- The control plane in one snapshot, as JSON, where its mark is not $1: for a copy. Of versions those that are current for any task, and the
-- newest of each environment ($2): what workers of older ones need, they say themselves. Indexes: environments_pkey,
-- queues_environment_id_name_key, tasks_pkey, versions_environment_id_version_key, version_tasks_pkey.
SELECT c.epoch, c.mark, CASE WHEN c.mark IS DISTINCT FROM $1::uuid THEN jsonb_build_object(
    'environments', (SELECT jsonb_agg(to_jsonb(e) ORDER BY e.id) FROM headrace.environments AS e),
    'queues', (SELECT jsonb_agg(to_jsonb(q) ORDER BY q.environment_id, q.name) FROM headrace.queues AS q),
    'tasks', (SELECT jsonb_agg(to_jsonb(t) ORDER BY t.environment_id, t.id) FROM headrace.tasks AS t),
    'versions', (
        SELECT jsonb_agg(to_jsonb(v) || jsonb_build_object('tasks', (
            SELECT jsonb_object_agg(s.task, s.first_seen_at) FROM headrace.version_tasks AS s WHERE s.version_id = v.id
        )) ORDER BY v.id)
        FROM (
            SELECT v.*, row_number() OVER (PARTITION BY v.environment_id ORDER BY v.id DESC) AS place FROM headrace.versions AS v
        ) AS v
        WHERE v.place <= $2::integer OR EXISTS (
            SELECT FROM headrace.tasks AS t WHERE t.environment_id = v.environment_id AND t.current_version = v.version
        )
    )
)::text END AS state
FROM headrace.control AS c
