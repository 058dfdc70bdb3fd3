-- Claims a chunk for a worker whose lease is not over, and renews it: the worker's row is locked, so that whoever ends the
-- lease finds every run that it claimed. Every open lane of its tasks gives an equal share of its head; another worker's
-- claim in progress is stepped over. Lanes with keys or limits are claim_limited_runs' to pick from: here it is only said that
-- there are some. A lane of another version of the code is left to that version's workers, while one lives that would claim from
-- it, or for ever; so is a lane of no version to those of the task's current version. What was put on a task's own queue is on the
-- one that the task's code names now: nobody knew it before the first worker came.
-- The runs are then met by their place in the table, because after a join by id the planner would read all of the table once
-- statistics are missing; for the same reason a lane's head is asked for by ORDER BY and LIMIT, which no plan can make a join
-- of all lanes with all runs. Indexes: workers_pkey, workers_by_version, lanes_open, environments_pkey, queues_environment_id_name_key,
-- tasks_pkey, versions_environment_id_version_key, runs_ready.
WITH lease AS (
    UPDATE headrace.workers SET lease_until = headrace.clock() + make_interval(secs => $6::float8)
    WHERE id = $2::bigint AND ended_at IS NULL
    RETURNING id
),
lanes AS MATERIALIZED (
    SELECT l.id, l.task, n.queue, l.locked, coalesce(q.keeps_slots, false) AS keeps_slot, l.kind <> 'plain' OR e.concurrency_limit IS NOT NULL
        OR (q.id IS NOT NULL AND (headrace.queue_limit(q, e.concurrency_limit) IS NOT NULL OR q.rate_limit IS NOT NULL)) AS limited
    FROM headrace.lanes AS l
    JOIN headrace.environments AS e ON e.id = l.environment_id
    LEFT JOIN headrace.tasks AS t ON t.environment_id = l.environment_id AND t.id = l.task
    CROSS JOIN LATERAL (SELECT CASE WHEN l.queue = 'task/' || l.task THEN coalesce(t.queue, l.queue) ELSE l.queue END AS queue) AS n
    LEFT JOIN headrace.queues AS q ON q.environment_id = l.environment_id AND q.name = n.queue
    CROSS JOIN LATERAL (SELECT coalesce(l.version, t.current_version) AS wanted) AS v
    WHERE l.environment_id = $1::integer AND l.open AND l.task = ANY($3::text[])
        AND ($4::text[] IS NULL OR n.queue = ANY($4::text[]))
        AND e.paused_at IS NULL AND q.paused_at IS NULL
        AND (l.kind = 'ordered' OR v.wanted IS NULL OR v.wanted = $7::text OR NOT (l.locked OR EXISTS (
            SELECT FROM headrace.workers AS w
            WHERE w.environment_id = l.environment_id AND w.version = v.wanted AND w.ended_at IS NULL
                AND (w.tasks IS NULL OR l.task = ANY(w.tasks)) AND (w.queues IS NULL OR n.queue = ANY(w.queues))
        )))
),
heads AS MATERIALIZED (
    SELECT l.id, l.task, l.queue, l.locked, l.keeps_slot
    FROM lanes AS l CROSS JOIN LATERAL (
        SELECT FROM headrace.runs AS r
        WHERE r.lane_id = l.id AND r.status = 'QUEUED' AND r.ready_at <= headrace.clock()
        ORDER BY r.ready_at, r.id LIMIT 1
    ) AS head
    WHERE NOT l.limited
),
picked AS MATERIALIZED (
    SELECT head.ctid
    FROM lease CROSS JOIN heads CROSS JOIN LATERAL (
        SELECT r.ctid FROM headrace.runs AS r
        WHERE r.lane_id = heads.id AND r.status = 'QUEUED' AND r.ready_at <= headrace.clock()
            AND (r.expires_at IS NULL OR r.expires_at > headrace.clock())
        ORDER BY r.ready_at, r.id
        LIMIT (SELECT ceil($5::float8 / greatest(count(*), 1)) FROM heads)
        FOR UPDATE SKIP LOCKED
    ) AS head
    LIMIT $5::integer
),
claimed AS (
    UPDATE headrace.runs AS r
    SET status = 'EXECUTING', attempt = r.attempt + 1, worker_id = $2::bigint, started_at = headrace.clock(),
        updated_at = headrace.clock(), expires_at = NULL, counted_in = NULL,
        version_id = (SELECT v.id FROM headrace.versions AS v WHERE v.environment_id = $1::integer AND v.version = $7::text)
    WHERE r.ctid = ANY(ARRAY(SELECT p.ctid FROM picked AS p))
    RETURNING r.id, r.lane_id, r.attempt, r.failures, r.payload, r.payload_type, r.batch_id, r.batch_index,
        r.options::text AS options, r.created_at, r.traceparent, r.parent_run_id, r.resumes, r.root_run_id, r.depth,
        r.metadata::text AS metadata
)
SELECT lease.id AS lease, c.*, heads.task, heads.queue, 'plain' AS kind, heads.locked, heads.keeps_slot,
    EXISTS (SELECT FROM lanes AS l WHERE l.limited) AS any_limited
FROM lease LEFT JOIN (claimed AS c JOIN heads ON heads.id = c.lane_id) ON true
