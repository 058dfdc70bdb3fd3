-- For a claim in another store, which holds these limits here ($2: queues, '' is the environment) in a statement before: what of them
-- is used up here, under names that mean the same in every store. Without $3 only whose turn it is, and whose it was: seconds since, and
-- how long more is wanted. In the home store also which stores there are; and which state of the control plane
-- this store is as, or 'none'. As many rows as keys execute, or have used something of their
-- rate. Indexes: queues_environment_id_name_key,
-- runs_counted, queue_rates_used, limit_turns_pkey.
WITH limited AS MATERIALIZED (
    SELECT q.id, q.name, length(q.name) || ':' || q.name || ':' AS prefix FROM headrace.queues AS q
    WHERE $3::boolean AND q.environment_id = $1::integer AND q.name = ANY($2::text[])
),
executing AS MATERIALIZED (
    SELECT l.name, l.prefix, x.key, x.runs
    FROM limited AS l CROSS JOIN LATERAL (
        SELECT r.concurrency_key AS key, count(*) AS runs FROM headrace.runs AS r
        WHERE r.environment_id = $1::integer AND r.counted_in = l.id AND r.status = 'EXECUTING'
        GROUP BY r.concurrency_key
    ) AS x
)
SELECT 'count' AS kind, 'environment' AS name, count(*)::float8 AS amount FROM headrace.runs AS r
WHERE $3::boolean AND '' = ANY($2::text[]) AND r.environment_id = $1::integer AND r.status = 'EXECUTING' AND r.counted_in IS NOT NULL
UNION ALL
SELECT 'count', 'queue:' || l.name, coalesce(sum(e.runs), 0)::float8
FROM limited AS l LEFT JOIN executing AS e ON e.name = l.name GROUP BY l.name
UNION ALL
SELECT 'count', 'unkeyed:' || e.name, e.runs::float8 FROM executing AS e WHERE e.key IS NULL
UNION ALL
SELECT 'count', 'key:' || e.prefix || e.key, e.runs::float8 FROM executing AS e WHERE e.key IS NOT NULL
UNION ALL
SELECT 'rate', 'rate:' || l.prefix || u.key, extract(epoch FROM u.used_until - headrace.clock())::float8
FROM limited AS l JOIN headrace.queue_rates AS u ON u.queue_id = l.id AND u.used_until > headrace.clock()
UNION ALL
SELECT s.kind, t.queue, s.amount
FROM headrace.limit_turns AS t CROSS JOIN LATERAL (VALUES
    ('tried', extract(epoch FROM headrace.clock() - t.tried_at)::float8),
    ('took', extract(epoch FROM headrace.clock() - t.took_at)::float8),
    ('wants', extract(epoch FROM t.wants_until - headrace.clock())::float8)
) AS s (kind, amount)
WHERE t.environment_id = $1::integer AND t.queue = ANY($2::text[]) AND s.amount IS NOT NULL
UNION ALL
SELECT 'store', s.key, NULL FROM headrace.stores AS s WHERE s.state <> 'removed'
UNION ALL
SELECT 'mark', coalesce(CASE WHEN i.key = '0' THEN c.mark WHEN NOT c.recounting THEN c.copied_mark END::text, 'none'), NULL
FROM headrace.control AS c CROSS JOIN headrace.identity AS i
