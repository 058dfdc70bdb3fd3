-- A chunk of items as runs, and the count of them, in one statement. An item that is there already is left as it is:
-- its run's id follows from (batch, index), and the primary key refuses the second. The caller holds the batch's row, and the
-- locks of its order keys (see lock_order_keys). What few items say is worked out for these only, and the clock is read once (OFFSET 0):
-- both were a fifth of the statement. Items of a run whose tree is parked (moves) are parked. Indexes: runs_pkey, batches_pkey,
-- environments_pkey, parkings_pkey.
WITH inserted AS (
    INSERT INTO headrace.runs (
        environment_id, lane_id, id, batch_id, batch_index, status, ready_at, created_at, updated_at, delayed_until,
        finished_at, parent_run_id, root_run_id, depth, payload, payload_type, error, options, idempotency_key, traceparent,
        concurrency_key, order_key, order_number, order_lane_id, expires_at, schedule_id, replayed_from, parked
    )
    SELECT $1::integer, coalesce(i.lane_id, $3::integer), headrace.item_run_id($2::uuid, i.index), $2::uuid, i.index,
        CASE WHEN i.error IS NULL THEN 'QUEUED'::headrace.run_status ELSE 'SYSTEM_FAILURE' END,
        CASE WHEN p.yes THEN 'infinity' ELSE w.ready_at END,
        t.now, t.now, i.delayed_until, CASE WHEN i.error IS NOT NULL THEN t.now END,
        $4::uuid, $15::uuid, $16::integer, i.payload, i.payload_type, i.error::jsonb, o.said, i.idempotency_key, $5::text,
        o.said ->> 'concurrencyKey', o.said ->> 'orderKey',
        CASE WHEN o.said ? 'orderKey' THEN nextval('headrace.run_order') END,
        CASE WHEN o.said ? 'orderKey' THEN coalesce(i.lane_id, $3::integer) END,
        CASE WHEN t.expires OR o.said ? 'ttl' THEN
            headrace.run_expiry(greatest(t.now, i.delayed_until), (o.said ->> 'ttl')::float8, t.default_ttl, t.max_ttl)
        END,
        (o.said ->> 'scheduleId')::uuid, (o.said ->> 'replayedFrom')::uuid,
        CASE WHEN p.yes THEN w.ready_at END
    FROM unnest(
        $7::integer[], $8::integer[], $9::bytea[], $10::text[], $11::timestamptz[], $12::text[], $13::text[], $14::text[]
    ) AS i (index, lane_id, payload, payload_type, delayed_until, error, options, idempotency_key)
    CROSS JOIN LATERAL (SELECT i.options::jsonb AS said) AS o
    CROSS JOIN (
        SELECT c.now, coalesce($17::timestamptz, c.now) AS place, e.default_ttl, e.max_ttl,
            e.default_ttl IS NOT NULL OR e.max_ttl IS NOT NULL AS expires,
            EXISTS (SELECT FROM headrace.parkings AS p WHERE p.environment_id = $1::integer AND p.root_id = $15::uuid) AS parked
        FROM headrace.environments AS e CROSS JOIN (SELECT headrace.clock() AS now OFFSET 0) AS c WHERE e.id = $1::integer
    ) AS t
    CROSS JOIN LATERAL (
        SELECT greatest(
            CASE WHEN o.said ? 'priority' THEN t.place - make_interval(secs => (o.said ->> 'priority')::float8) ELSE t.place END,
            i.delayed_until
        ) AS ready_at
    ) AS w
    CROSS JOIN LATERAL (SELECT t.parked AND i.error IS NULL AND NOT (t.expires OR coalesce(o.said ? 'ttl', false)) AS yes) AS p
    ON CONFLICT (environment_id, id) DO NOTHING
    RETURNING batch_index, status
),
tally AS (
    SELECT count(*)::integer AS accepted, (count(*) FILTER (WHERE status = 'SYSTEM_FAILURE'))::integer AS prefailed,
        max(batch_index) AS highest_index
    FROM inserted
)
UPDATE headrace.batches AS b
SET accepted = b.accepted + t.accepted, prefailed = b.prefailed + t.prefailed, settled = b.settled + t.prefailed,
    highest_index = greatest(b.highest_index, t.highest_index), updated_at = headrace.clock(),
    seal_deadline = headrace.clock() + make_interval(secs => $6::float8)
FROM tally AS t
WHERE b.environment_id = $1::integer AND b.id = $2::uuid
RETURNING t.accepted
