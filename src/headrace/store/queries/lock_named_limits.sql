-- As lock_limits, where there are several stores: holds the limits of these queues ($2; '' is the environment's) in one of them, in
-- the order of lock_limits, so that nothing is claimed under them there; in the one that is claimed from the ordered lanes of tasks ($5,
-- NULL in the others) as well. $3 is as there, and ends too what stands still between the halves of a statement; nobody waits for longer
-- than $4 seconds. Indexes: queues_environment_id_name_key, lanes_open, tasks_pkey.
WITH patience AS MATERIALIZED (
    SELECT set_config('idle_in_transaction_session_timeout', ceil($3::float8 * 1000)::text, true) AS given,
        set_config('statement_timeout', ceil($3::float8 * 1000)::text, true) AS ends,
        set_config('lock_timeout', ceil($4::float8 * 1000)::text, true) AS waits,
        set_config('plan_cache_mode', 'force_generic_plan', true) AS planned
)
SELECT pg_advisory_xact_lock(m.class, m.id), p.given, p.ends, p.waits, p.planned
FROM patience AS p CROSS JOIN (
    SELECT 7306 AS class, $1::integer AS id WHERE '' = ANY($2::text[])
    UNION ALL
    SELECT 7307, q.id FROM headrace.queues AS q WHERE q.environment_id = $1::integer AND q.name = ANY($2::text[])
    UNION ALL
    SELECT 7308, l.id
    FROM headrace.lanes AS l JOIN headrace.tasks AS t ON t.environment_id = l.environment_id AND t.id = l.task
    WHERE l.environment_id = $1::integer AND l.open AND l.task = ANY($5::text[]) AND l.kind = 'ordered'
        AND (t.skips_failed OR t.coalesces > 1)
    ORDER BY 1, 2
) AS m
