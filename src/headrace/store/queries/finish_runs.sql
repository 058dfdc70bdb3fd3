-- A chunk of ended attempts: the runs, their history and the batches' tallies in one statement, for the runs that this
-- worker still holds in that attempt; a lease that was lost matches nothing. OFFSET 0 and CASE keep the planner to the
-- primary key, a probe a run: with no statistics yet it would scan all that is held, or the whole table; and with some of
-- a moment in which nothing was held it would take what is held for one row, and compare each of it with all of the chunk.
-- Batches are locked in one order. Indexes: runs_pkey, batches_pkey.
WITH done AS (
    UPDATE headrace.runs AS r
    SET status = CASE WHEN f.retry_in IS NULL THEN f.status::headrace.run_status ELSE 'QUEUED' END,
        lane_id = coalesce(f.lane_id, r.lane_id),
        ready_at = CASE
            WHEN f.retry_in IS NULL THEN r.ready_at
            WHEN EXISTS (
                SELECT FROM headrace.parkings AS p
                WHERE p.environment_id = r.environment_id AND p.root_id = coalesce(r.root_run_id, r.id)
            ) THEN 'infinity'
            ELSE headrace.clock() + make_interval(secs => f.retry_in)
        END,
        parked = CASE
            WHEN f.retry_in IS NOT NULL AND EXISTS (
                SELECT FROM headrace.parkings AS p
                WHERE p.environment_id = r.environment_id AND p.root_id = coalesce(r.root_run_id, r.id)
            ) THEN headrace.clock() + make_interval(secs => f.retry_in)
        END,
        finished_at = CASE WHEN f.retry_in IS NULL AND f.status <> 'WAITING' THEN headrace.clock() END,
        failures = r.failures + CASE WHEN f.status IN ('COMPLETED', 'WAITING') THEN 0 ELSE 1 END,
        updated_at = headrace.clock(), worker_id = NULL, output = f.output, output_type = f.output_type, error = f.error::jsonb
    FROM (
        SELECT $1::integer AS environment_id, u.*
        FROM unnest($3::uuid[], $4::integer[], $5::text[], $6::bytea[], $7::text[], $8::text[], $9::float8[], $10::integer[])
            AS u (id, attempt, status, output, output_type, error, retry_in, lane_id)
        OFFSET 0
    ) AS f
    WHERE r.environment_id = f.environment_id AND r.id = f.id
        AND CASE WHEN r.worker_id = $2::bigint AND r.status = 'EXECUTING' THEN r.attempt = f.attempt END
    RETURNING r.id, r.lane_id, r.batch_id, r.attempt - r.resumes AS number, r.watched, r.idempotency_key, r.started_at, r.status,
        r.finished_at IS NOT NULL AS finished, r.counted_in IS NOT NULL OR r.order_key IS NOT NULL AS frees,
        f.status AS attempt_status, f.error AS attempt_error
),
history AS (
    INSERT INTO headrace.attempts (environment_id, run_id, number, status, worker_id, started_at, finished_at, error)
    SELECT $1::integer, d.id, d.number, d.attempt_status::headrace.run_status, $2::bigint, d.started_at, headrace.clock(),
        d.attempt_error::jsonb
    FROM done AS d WHERE d.status <> 'WAITING'
),
tally AS (
    SELECT $1::integer AS environment_id, d.batch_id AS id, count(*)::integer AS settled,
        (count(*) FILTER (WHERE d.status = 'COMPLETED'))::integer AS succeeded
    FROM done AS d WHERE d.batch_id IS NOT NULL AND d.finished GROUP BY d.batch_id
),
locked AS (
    SELECT b.environment_id, b.id, t.settled, t.succeeded
    FROM tally AS t JOIN headrace.batches AS b ON b.environment_id = t.environment_id AND b.id = t.id
    ORDER BY b.id FOR UPDATE OF b
),
settled AS (
    UPDATE headrace.batches AS b
    SET settled = b.settled + t.settled, succeeded = b.succeeded + t.succeeded, updated_at = headrace.clock(),
        status = headrace.settled_batch_status(b.status, b.run_count, b.settled + t.settled, b.prefailed),
        completed_at = CASE
            WHEN headrace.settled_batch_status(b.status, b.run_count, b.settled + t.settled, b.prefailed) <> b.status
            THEN headrace.clock() ELSE b.completed_at
        END
    FROM locked AS t
    WHERE b.environment_id = t.environment_id AND b.id = t.id
    RETURNING b.id, b.followed, b.watched AND b.completed_at IS NOT NULL AS ended
)
SELECT d.id, d.lane_id, d.status, d.watched, d.idempotency_key, d.frees,
    ARRAY(SELECT s.id FROM settled AS s WHERE s.ended) AS ended_batches,
    ARRAY(SELECT s.id FROM settled AS s WHERE s.followed) AS followed_batches
FROM done AS d
