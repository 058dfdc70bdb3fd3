-- Claims from lanes with keys or limits, as claim_runs does from the others; the caller holds their limits in a statement before
-- (see lock_limits), so what is counted here is all there is. The keys of a lane take turns: a walk from key to key begins behind
-- the one ($9, of lane $8) that had the last turn, and is $10 keys long at most, so that neither the number of keys nor what lies
-- behind their heads is in the cost of a claim. Of an ordered lane's key only the first run that has not ended may go, wherever a
-- version moved it. $11 is NULL where this is the only store: what executes here is all there is. With several it is what count_limits
-- says of the others, and lanes under a limit that is not in it are left alone (decision 0014). Returns one row at least: the ends of
-- the walks, and how soon a rate allows more. Indexes: workers_pkey,
-- workers_by_version, lanes_open, lanes_pkey, environments_pkey, queues_environment_id_name_key, queue_rates_pkey, tasks_pkey,
-- versions_environment_id_version_key, runs_ready, runs_keyed, runs_ordered, runs_in_order, runs_counted, runs_pkey.
WITH RECURSIVE lease AS (
    UPDATE headrace.workers SET lease_until = headrace.clock() + make_interval(secs => $6::float8)
    WHERE id = $2::bigint AND ended_at IS NULL
    RETURNING id
),
lanes AS MATERIALIZED (
    SELECT l.id, l.task, n.queue, l.kind, l.locked, e.concurrency_limit AS environment_limit, coalesce(q.id, 0) AS counted_in,
        q.key_limit IS NOT NULL AS counts_keys, q.rate_by_key, q.keeps_slots, q.rate_period, q.rate_period / q.rate_limit AS rate_step,
        -- the limit of a queue is that of each of its keys, unless keys have one of their own
        CASE WHEN l.kind <> 'keyed' OR q.key_limit IS NOT NULL THEN headrace.queue_limit(q, e.concurrency_limit) END AS queue_limit,
        CASE WHEN l.kind = 'keyed' THEN coalesce(q.key_limit, headrace.queue_limit(q, e.concurrency_limit)) END AS key_limit,
        l.kind = 'ordered' AND coalesce(t.skips_failed, false) AS skips_failed, coalesce(t.coalesces, 1) AS coalesces,
        t.current_version
    FROM headrace.lanes AS l
    JOIN headrace.environments AS e ON e.id = l.environment_id
    LEFT JOIN headrace.tasks AS t ON t.environment_id = l.environment_id AND t.id = l.task
    -- as in claim_runs
    CROSS JOIN LATERAL (SELECT CASE WHEN l.queue = 'task/' || l.task THEN coalesce(t.queue, l.queue) ELSE l.queue END AS queue) AS n
    LEFT JOIN headrace.queues AS q ON q.environment_id = l.environment_id AND q.name = n.queue
    CROSS JOIN LATERAL (SELECT coalesce(l.version, t.current_version) AS wanted) AS v
    WHERE l.environment_id = $1::integer AND l.open AND l.task = ANY($3::text[])
        AND ($4::text[] IS NULL OR n.queue = ANY($4::text[]))
        AND e.paused_at IS NULL AND q.paused_at IS NULL
        AND (
            l.kind <> 'plain' OR e.concurrency_limit IS NOT NULL
            OR (q.id IS NOT NULL AND (headrace.queue_limit(q, e.concurrency_limit) IS NOT NULL OR q.rate_limit IS NOT NULL))
        )
        AND CASE
            WHEN $11::jsonb IS NOT NULL THEN (e.concurrency_limit IS NULL OR $11::jsonb -> 'environment' IS NOT NULL)
                AND ((q.declared_limit, q.override_limit, q.override_percent, q.key_limit, q.rate_limit) IS NULL
                    OR $11::jsonb -> ('queue:' || q.name) IS NOT NULL)
            -- a process that has not heard yet that there are others
            WHEN (SELECT count(*) > 1 FROM headrace.stores AS s WHERE s.state <> 'removed') THEN e.concurrency_limit IS NULL
                AND (q.declared_limit, q.override_limit, q.override_percent, q.key_limit, q.rate_limit) IS NULL
            ELSE true
        END
        AND CASE WHEN l.kind = 'ordered' THEN l.version IS NULL ELSE
            v.wanted IS NULL OR v.wanted = $7::text OR NOT (l.locked OR EXISTS (
                SELECT FROM headrace.workers AS w
                WHERE w.environment_id = l.environment_id AND w.version = v.wanted AND w.ended_at IS NULL
                    AND (w.tasks IS NULL OR l.task = ANY(w.tasks)) AND (w.queues IS NULL OR n.queue = ANY(w.queues))
            ))
        END
),
queues AS MATERIALIZED (
    SELECT l.counted_in, max(l.rate_step) AS rate_step,
        least(
            max(l.queue_limit) - CASE WHEN max(l.queue_limit) IS NULL THEN NULL WHEN bool_or(l.counts_keys) THEN (
                SELECT count(*) FROM headrace.runs AS r
                WHERE r.environment_id = $1::integer AND r.counted_in = l.counted_in AND r.status = 'EXECUTING'
            ) ELSE (
                SELECT count(*) FROM headrace.runs AS r
                WHERE r.environment_id = $1::integer AND r.counted_in = l.counted_in AND r.concurrency_key IS NULL
                    AND r.status = 'EXECUTING'
            ) END - coalesce(
                ($11::jsonb ->> (CASE WHEN bool_or(l.counts_keys) THEN 'queue:' ELSE 'unkeyed:' END || max(l.queue)))::float8, 0
            ),
            floor(max(u.left_over) / max(l.rate_step))
        ) AS room,
        CASE WHEN max(u.left_over) < max(l.rate_step) THEN max(l.rate_step) - max(u.left_over) END AS wait
    FROM lanes AS l LEFT JOIN LATERAL (
        SELECT l.rate_period - greatest(
            extract(epoch FROM max(u.used_until) - headrace.clock())::float8,
            ($11::jsonb ->> ('rate:' || length(l.queue) || ':' || l.queue || ':'))::float8, 0
        ) AS left_over
        FROM headrace.queue_rates AS u WHERE u.queue_id = l.counted_in AND u.key = ''
    ) AS u ON l.rate_step IS NOT NULL AND NOT l.rate_by_key
    WHERE l.queue_limit IS NOT NULL OR (l.rate_step IS NOT NULL AND NOT l.rate_by_key)
    GROUP BY l.counted_in
),
-- Where few runs of a lane are ready, their keys are all there is to look at: keys whose runs are all delayed would make a walk long.
ready AS MATERIALIZED (
    SELECT l.id AS lane_id, h.key, count(*) OVER (PARTITION BY l.id) >= $10::integer AS many
    FROM lanes AS l
    JOIN headrace.lanes AS p ON p.id = l.id OR (
        l.kind = 'ordered' AND p.environment_id = $1::integer AND p.open AND p.task = l.task AND p.kind = 'ordered' AND p.version IS NOT NULL
    )
    CROSS JOIN LATERAL (
        SELECT coalesce(r.concurrency_key, r.order_key) AS key FROM headrace.runs AS r
        WHERE r.lane_id = p.id AND r.status = 'QUEUED' AND r.ready_at <= headrace.clock()
            AND coalesce(r.order_lane_id, r.lane_id) = l.id
        ORDER BY r.ready_at, r.id LIMIT $10::integer
    ) AS h
    WHERE l.kind <> 'plain'
),
lines AS MATERIALIZED (
    SELECT l.*, NOT EXISTS (SELECT FROM ready AS k WHERE k.lane_id = l.id AND k.many) AS few FROM lanes AS l WHERE l.kind <> 'plain'
),
-- A step goes to the next key of its lane (from the last one on to the first: the branches of a UNION ALL are tried in their order)
-- and says whether its head is ready, and how many of the key may go. OFFSET 0 keeps the planner from doing the same probe again
-- wherever its result is named. Enough keys with something to give end the walk.
walk AS (
    SELECT l.id AS lane_id, coalesce(c.key, '') COLLATE "C" AS first, coalesce(c.key, '') COLLATE "C" AS key, false AS wrapped,
        0 AS step, 0 AS found, 0::float8 AS free, NULL::float8 AS wait
    FROM lanes AS l LEFT JOIN unnest($8::integer[], $9::text[]) AS c (lane_id, key) ON c.lane_id = l.id
    WHERE l.kind <> 'plain'
    UNION ALL
    SELECT w.lane_id, w.first, n.key, n.wrapped, w.step + 1, w.found + (n.ready AND room.free > 0)::integer,
        CASE WHEN n.ready THEN room.free ELSE 0 END, CASE WHEN n.ready THEN room.wait END
    FROM walk AS w JOIN lines AS l ON l.id = w.lane_id
    CROSS JOIN LATERAL (
        (
            SELECT k.key, k.wrapped, l.kind = 'keyed' OR l.skips_failed OR (
                SELECT r.status = 'QUEUED' AND r.ready_at <= headrace.clock() FROM headrace.runs AS r
                WHERE r.order_lane_id = w.lane_id AND r.order_key = k.key AND r.finished_at IS NULL
                ORDER BY r.order_number LIMIT 1
            ) AS ready
            FROM (
                SELECT k.key, w.wrapped OR k.key <= w.key AS wrapped FROM ready AS k
                WHERE l.few AND k.lane_id = w.lane_id AND (k.key > w.key OR NOT w.wrapped)
                ORDER BY k.key <= w.key, k.key LIMIT 1
            ) AS k
        )
        UNION ALL
        (
            SELECT r.concurrency_key AS key, w.wrapped, r.ready_at <= headrace.clock() AS ready FROM headrace.runs AS r
            WHERE NOT l.few AND l.kind = 'keyed' AND r.lane_id = w.lane_id AND r.status = 'QUEUED' AND r.concurrency_key > w.key
            ORDER BY r.concurrency_key, r.ready_at LIMIT 1
        )
        UNION ALL
        (
            SELECT r.concurrency_key, true, r.ready_at <= headrace.clock() FROM headrace.runs AS r
            WHERE NOT l.few AND l.kind = 'keyed' AND NOT w.wrapped AND w.first > '' AND r.lane_id = w.lane_id AND r.status = 'QUEUED'
                AND r.concurrency_key > ''
            ORDER BY r.concurrency_key, r.ready_at LIMIT 1
        )
        UNION ALL
        (
            SELECT r.order_key, w.wrapped, l.skips_failed OR (r.status = 'QUEUED' AND r.ready_at <= headrace.clock())
            FROM headrace.runs AS r
            WHERE NOT l.few AND l.kind = 'ordered' AND r.order_lane_id = w.lane_id AND r.finished_at IS NULL AND r.order_key > w.key
            ORDER BY r.order_key, r.order_number LIMIT 1
        )
        UNION ALL
        (
            SELECT r.order_key, true, l.skips_failed OR (r.status = 'QUEUED' AND r.ready_at <= headrace.clock())
            FROM headrace.runs AS r
            WHERE NOT l.few AND l.kind = 'ordered' AND NOT w.wrapped AND w.first > '' AND r.order_lane_id = w.lane_id AND r.finished_at IS NULL
                AND r.order_key > ''
            ORDER BY r.order_key, r.order_number LIMIT 1
        )
        LIMIT 1
    ) AS n
    CROSS JOIN LATERAL (
        SELECT least(
            $5::integer,
            CASE WHEN l.key_limit IS NOT NULL AND n.ready THEN l.key_limit - (
                SELECT count(*) FROM headrace.runs AS r
                WHERE r.environment_id = $1::integer AND r.counted_in = l.counted_in AND r.concurrency_key = n.key
                    AND r.status = 'EXECUTING'
            ) - coalesce(($11::jsonb ->> ('key:' || length(l.queue) || ':' || l.queue || ':' || n.key))::float8, 0) END,
            floor(rate.left_over / l.rate_step)
        ) AS free,
        CASE WHEN rate.left_over < l.rate_step THEN l.rate_step - rate.left_over END AS wait
        FROM (
            SELECT CASE WHEN l.rate_by_key AND l.rate_step IS NOT NULL THEN l.rate_period - greatest((
                SELECT extract(epoch FROM u.used_until - headrace.clock())::float8 FROM headrace.queue_rates AS u
                WHERE u.queue_id = l.counted_in AND u.key = n.key
            ), ($11::jsonb ->> ('rate:' || length(l.queue) || ':' || l.queue || ':' || n.key))::float8, 0) END AS left_over
            OFFSET 0
        ) AS rate
        OFFSET 0
    ) AS room
    WHERE w.step < $10::integer AND w.found < $5::integer AND (NOT n.wrapped OR n.key <= w.first)
),
keys AS MATERIALIZED (
    SELECT w.lane_id, l.kind, l.queue, l.skips_failed, l.coalesces, l.current_version, w.key, w.step, w.free,
        ceil($5::float8 / count(*) OVER (PARTITION BY w.lane_id)) AS share
    FROM walk AS w JOIN lanes AS l ON l.id = w.lane_id
    WHERE w.free > 0 AND w.step > 0
),
candidates AS MATERIALIZED (
    SELECT k.lane_id, k.key, k.step, NULL::bigint AS place, head.id, head.ctid, head.ready_at
    FROM lease CROSS JOIN keys AS k CROSS JOIN LATERAL (
        SELECT r.id, r.ctid, r.ready_at FROM headrace.runs AS r
        WHERE r.lane_id = k.lane_id AND r.concurrency_key = k.key AND r.status = 'QUEUED' AND r.ready_at <= headrace.clock()
            AND (r.expires_at IS NULL OR r.expires_at > headrace.clock())
        ORDER BY r.ready_at, r.id
        LIMIT least(k.free, k.share)
        FOR UPDATE SKIP LOCKED
    ) AS head
    WHERE k.kind = 'keyed'
    UNION ALL
    SELECT w.lane_id, w.key, w.step, first.place, head.id, head.ctid, head.ready_at
    FROM lease CROSS JOIN keys AS w
    CROSS JOIN LATERAL (
        -- the first one, and those behind it that one call may take, as far as all are ready
        SELECT g.id, g.lane_id, g.place FROM (
            SELECT f.id, f.lane_id, row_number() OVER line AS place, bool_and(f.ready) OVER line AS all_ready
            FROM (
                SELECT r.id, r.lane_id, r.order_number, r.status = 'QUEUED' AND r.ready_at <= headrace.clock() AS ready
                FROM headrace.runs AS r
                WHERE r.order_lane_id = w.lane_id AND r.order_key = w.key AND r.finished_at IS NULL
                    AND (NOT w.skips_failed OR r.status <> 'QUEUED' OR r.ready_at <= headrace.clock())
                ORDER BY r.order_number LIMIT w.coalesces
            ) AS f
            WINDOW line AS (ORDER BY f.order_number)
        ) AS g
        WHERE g.all_ready
    ) AS first
    JOIN headrace.lanes AS f ON f.id = first.lane_id
    CROSS JOIN LATERAL (SELECT coalesce(f.version, w.current_version) AS wanted) AS v
    CROSS JOIN LATERAL (
        SELECT r.id, r.ctid, r.ready_at FROM headrace.runs AS r
        WHERE r.environment_id = $1::integer AND r.id = first.id AND r.status = 'QUEUED' AND r.ready_at <= headrace.clock()
            AND (r.expires_at IS NULL OR r.expires_at > headrace.clock())
        LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AS head
    WHERE w.kind = 'ordered' AND NOT (w.skips_failed AND EXISTS (
            SELECT FROM headrace.runs AS r
            WHERE r.order_lane_id = w.lane_id AND r.order_key = w.key AND r.status IN ('EXECUTING', 'WAITING')
        ))
        AND (v.wanted IS NULL OR v.wanted = $7::text OR NOT EXISTS (
            SELECT FROM headrace.workers AS o
            WHERE o.environment_id = f.environment_id AND o.version = v.wanted AND o.ended_at IS NULL
                AND (o.tasks IS NULL OR f.task = ANY(o.tasks)) AND (o.queues IS NULL OR w.queue = ANY(o.queues))
        ))
    UNION ALL
    SELECT l.id, NULL, 0, NULL, head.id, head.ctid, head.ready_at
    FROM lease CROSS JOIN lanes AS l LEFT JOIN queues AS q ON q.counted_in = l.counted_in
    CROSS JOIN LATERAL (
        SELECT r.id, r.ctid, r.ready_at FROM headrace.runs AS r
        WHERE r.lane_id = l.id AND r.status = 'QUEUED' AND r.ready_at <= headrace.clock()
            AND (r.expires_at IS NULL OR r.expires_at > headrace.clock())
        ORDER BY r.ready_at, r.id LIMIT greatest(least($5::integer, q.room), 0) FOR UPDATE SKIP LOCKED
    ) AS head
    WHERE l.kind = 'plain'
),
-- keys take turns in their lane, lanes in their queue, queues in what the environment allows
turns AS (
    SELECT c.*, row_number() OVER (PARTITION BY c.lane_id, c.key ORDER BY c.place, c.ready_at, c.id) AS key_turn FROM candidates AS c
),
lane_turns AS (
    SELECT t.*, row_number() OVER (PARTITION BY t.lane_id ORDER BY t.key_turn, t.step, t.ready_at, t.id) AS lane_turn FROM turns AS t
    WHERE t.place IS NULL OR t.place = t.key_turn -- one that somebody else holds at this moment keeps those behind it back
),
queue_turns AS (
    SELECT t.*, l.counted_in, l.queue, l.environment_limit, l.rate_step, l.rate_by_key, q.room,
        row_number() OVER (PARTITION BY l.counted_in, l.queue_limit IS NULL AND (l.rate_step IS NULL OR l.rate_by_key)
            ORDER BY t.lane_turn, t.ready_at, t.id) AS queue_turn,
        l.queue_limit IS NULL AND (l.rate_step IS NULL OR l.rate_by_key) AS unlimited
    FROM lane_turns AS t JOIN lanes AS l ON l.id = t.lane_id LEFT JOIN queues AS q ON q.counted_in = l.counted_in
),
chosen AS MATERIALIZED (
    SELECT t.* FROM (
        SELECT q.*, row_number() OVER (ORDER BY q.queue_turn, q.lane_turn, q.ready_at, q.id) AS turn
        FROM queue_turns AS q WHERE q.unlimited OR q.queue_turn <= q.room
    ) AS t
    WHERE t.turn <= least($5::integer, CASE WHEN t.environment_limit IS NOT NULL THEN t.environment_limit - (
        SELECT count(*) FROM headrace.runs AS r
        WHERE r.environment_id = $1::integer AND r.status = 'EXECUTING' AND r.counted_in IS NOT NULL
    ) - coalesce(($11::jsonb ->> 'environment')::float8, 0) END)
),
used AS (
    INSERT INTO headrace.queue_rates (queue_id, key, used_until)
    SELECT g.queue_id, g.key, headrace.clock() + make_interval(secs => g.seconds + greatest(
        (SELECT extract(epoch FROM u.used_until - headrace.clock())::float8 FROM headrace.queue_rates AS u
            WHERE u.queue_id = g.queue_id AND u.key = g.key),
        ($11::jsonb ->> ('rate:' || length(g.queue) || ':' || g.queue || ':' || g.key))::float8, 0
    ))
    FROM (
        SELECT c.counted_in AS queue_id, max(c.queue) AS queue, CASE WHEN c.rate_by_key THEN coalesce(c.key, '') ELSE '' END AS key,
            count(*) * max(c.rate_step) AS seconds
        FROM chosen AS c WHERE c.rate_step IS NOT NULL GROUP BY 1, 3
    ) AS g
    ON CONFLICT (queue_id, key) DO UPDATE SET used_until = EXCLUDED.used_until
),
claimed AS (
    UPDATE headrace.runs AS r
    SET status = 'EXECUTING', attempt = r.attempt + 1, worker_id = $2::bigint, started_at = headrace.clock(),
        updated_at = headrace.clock(), expires_at = NULL,
        counted_in = (SELECT l.counted_in FROM lanes AS l WHERE l.id = coalesce(r.order_lane_id, r.lane_id)),
        version_id = (SELECT v.id FROM headrace.versions AS v WHERE v.environment_id = $1::integer AND v.version = $7::text)
    WHERE r.ctid = ANY(ARRAY(SELECT c.ctid FROM chosen AS c))
    RETURNING r.id, r.lane_id, r.attempt, r.failures, r.payload, r.payload_type, r.batch_id, r.batch_index,
        r.options::text AS options, r.created_at, r.traceparent, r.parent_run_id, r.resumes, r.root_run_id, r.depth,
        r.metadata::text AS metadata, coalesce(r.order_lane_id, r.lane_id) AS line
),
ends AS MATERIALIZED (
    SELECT DISTINCT ON (w.lane_id) w.lane_id, w.key, w.step FROM walk AS w ORDER BY w.lane_id, w.step DESC
)
SELECT lease.id AS lease, c.*, l.task, l.queue, l.kind::text AS kind, l.locked, coalesce(l.keeps_slots, false) AS keeps_slot,
    h.key AS turn_key, h.step AS turn_step,
    ARRAY(SELECT e.lane_id FROM ends AS e ORDER BY e.lane_id) AS walked_lanes,
    ARRAY(SELECT e.key FROM ends AS e ORDER BY e.lane_id) AS walked_keys,
    ARRAY(SELECT e.step FROM ends AS e ORDER BY e.lane_id) AS walked_steps,
    least((SELECT min(q.wait) FROM queues AS q), (SELECT min(w.wait) FROM walk AS w)) AS wake_in
FROM lease LEFT JOIN (
    claimed AS c JOIN chosen AS h ON h.id = c.id JOIN lanes AS l ON l.id = c.line
) ON true
