-- Takes runs from a worker that has ended: queued again at once, or CRASHED where that happened too often. Guarded as the
-- worker's own writes are. Indexes: runs_pkey, batches_pkey.
WITH done AS (
    UPDATE headrace.runs AS r
    SET status = CASE WHEN f.final THEN 'CRASHED'::headrace.run_status ELSE 'QUEUED' END, lane_id = coalesce(f.lane_id, r.lane_id),
        (ready_at, parked) = (
            SELECT CASE WHEN p.yes THEN 'infinity'::timestamptz ELSE headrace.clock() END, CASE WHEN p.yes THEN headrace.clock() END
            FROM (
                SELECT NOT f.final AND EXISTS (
                    SELECT FROM headrace.parkings AS p
                    WHERE p.environment_id = r.environment_id AND p.root_id = coalesce(r.root_run_id, r.id)
                ) AS yes
            ) AS p
        ),
        finished_at = CASE WHEN f.final THEN headrace.clock() END, rescues = r.rescues + f.counted,
        updated_at = headrace.clock(), worker_id = NULL, error = f.error::jsonb
    FROM (
        SELECT $1::integer AS environment_id, u.*
        FROM unnest($3::uuid[], $4::integer[], $5::boolean[], $6::integer[], $7::text[], $8::integer[])
            AS u (id, attempt, final, counted, error, lane_id)
        OFFSET 0
    ) AS f
    WHERE r.environment_id = f.environment_id AND r.id = f.id
        AND CASE WHEN r.worker_id = $2::bigint AND r.status = 'EXECUTING' THEN r.attempt = f.attempt END
    RETURNING r.id, r.lane_id, r.batch_id, r.attempt - r.resumes AS number, r.watched, r.idempotency_key, r.started_at, r.status, f.error
),
history AS (
    INSERT INTO headrace.attempts (environment_id, run_id, number, status, worker_id, started_at, finished_at, error)
    SELECT $1::integer, d.id, d.number, 'CRASHED', $2::bigint, d.started_at, headrace.clock(), d.error::jsonb FROM done AS d
),
tally AS (
    SELECT $1::integer AS environment_id, d.batch_id AS id, count(*)::integer AS settled
    FROM done AS d WHERE d.batch_id IS NOT NULL AND d.status <> 'QUEUED' GROUP BY d.batch_id
),
locked AS (
    SELECT b.environment_id, b.id, t.settled
    FROM tally AS t JOIN headrace.batches AS b ON b.environment_id = t.environment_id AND b.id = t.id
    ORDER BY b.id FOR UPDATE OF b
),
settled AS (
    UPDATE headrace.batches AS b
    SET settled = b.settled + t.settled, updated_at = headrace.clock(),
        status = headrace.settled_batch_status(b.status, b.run_count, b.settled + t.settled, b.prefailed),
        completed_at = CASE
            WHEN headrace.settled_batch_status(b.status, b.run_count, b.settled + t.settled, b.prefailed) <> b.status
            THEN headrace.clock() ELSE b.completed_at
        END
    FROM locked AS t
    WHERE b.environment_id = t.environment_id AND b.id = t.id
    RETURNING b.id, b.followed, b.watched AND b.completed_at IS NOT NULL AS ended
)
SELECT d.id, d.lane_id, d.status, d.watched, d.idempotency_key,
    ARRAY(SELECT s.id FROM settled AS s WHERE s.ended) AS ended_batches,
    ARRAY(SELECT s.id FROM settled AS s WHERE s.followed) AS followed_batches
FROM done AS d
