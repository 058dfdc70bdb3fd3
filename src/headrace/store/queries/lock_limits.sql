-- One claim at a time counts against a limit, and sees what the one before it took: holds, to the end of the transaction, the limits
-- that lanes of these tasks are under (the environment's, and each queue's: the former may be taken away), and the ordered lanes
-- that let a failed head be overtaken, or several runs of a key go together. A process that stands still for longer than its lease ($3,
-- seconds) while it holds them loses them with its session: the others would wait for it. Indexes: environments_pkey, lanes_open, queues_environment_id_name_key, tasks_pkey.
WITH patience AS MATERIALIZED (
    SELECT set_config('idle_in_transaction_session_timeout', ceil($3::float8 * 1000)::text, true) AS given,
        set_config('plan_cache_mode', 'force_generic_plan', true) AS planned -- to plan a claim takes thrice as long as to make it
)
SELECT pg_advisory_xact_lock(m.class, m.id), p.given, p.planned
FROM patience AS p CROSS JOIN (
    SELECT 7306 AS class, e.id FROM headrace.environments AS e WHERE e.id = $1::integer AND e.concurrency_limit IS NOT NULL
    UNION
    SELECT 7307, q.id
    FROM headrace.lanes AS l
    LEFT JOIN headrace.tasks AS t ON t.environment_id = l.environment_id AND t.id = l.task
    CROSS JOIN LATERAL (SELECT CASE WHEN l.queue = 'task/' || l.task THEN coalesce(t.queue, l.queue) ELSE l.queue END AS queue) AS n
    JOIN headrace.queues AS q ON q.environment_id = l.environment_id AND q.name = n.queue
    WHERE l.environment_id = $1::integer AND l.open AND l.task = ANY($2::text[])
        AND (q.declared_limit IS NOT NULL OR q.override_limit IS NOT NULL OR q.key_limit IS NOT NULL OR q.rate_limit IS NOT NULL)
    UNION
    SELECT 7308, l.id
    FROM headrace.lanes AS l JOIN headrace.tasks AS t ON t.environment_id = l.environment_id AND t.id = l.task
    WHERE l.environment_id = $1::integer AND l.open AND l.task = ANY($2::text[]) AND l.kind = 'ordered'
        AND (t.skips_failed OR t.coalesces > 1)
    ORDER BY 1, 2
) AS m
