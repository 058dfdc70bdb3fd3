-- Ends runs as CANCELED, whoever holds them: a worker's later write matches nothing. Or ($4) as EXPIRED, and then only those that
-- nobody has claimed by the time until which they may start. The caller has locked them in a statement of its own, so this one
-- sees what they are now; those that have ended are left alone. As in lock_runs, each is met by its key. Indexes: runs_pkey,
-- batches_pkey.
WITH held AS MATERIALIZED (
    SELECT r.environment_id, r.id, r.worker_id FROM (SELECT DISTINCT u.id FROM unnest($2::uuid[]) AS u (id)) AS n
    CROSS JOIN LATERAL (
        SELECT l.environment_id, l.id, l.worker_id FROM headrace.runs AS l
        WHERE l.environment_id = $1::integer AND l.id = n.id AND l.finished_at IS NULL
            AND ($4::text = 'CANCELED' OR (l.status = 'QUEUED' AND l.expires_at <= headrace.clock()))
        LIMIT 1
    ) AS r
),
done AS (
    UPDATE headrace.runs AS r
    SET status = $4::text::headrace.run_status, finished_at = headrace.clock(), updated_at = headrace.clock(), worker_id = NULL,
        error = $3::text::jsonb
    FROM held AS h
    WHERE r.environment_id = h.environment_id AND r.id = h.id
    RETURNING r.id, r.lane_id, r.batch_id, r.attempt - r.resumes AS number, r.watched, r.idempotency_key, r.started_at, r.status,
        h.worker_id
),
history AS (
    INSERT INTO headrace.attempts (environment_id, run_id, number, status, worker_id, started_at, finished_at, error)
    SELECT $1::integer, d.id, d.number, d.status, d.worker_id, d.started_at, headrace.clock(), $3::text::jsonb
    FROM done AS d WHERE d.worker_id IS NOT NULL
),
tally AS (
    SELECT $1::integer AS environment_id, d.batch_id AS id, count(*)::integer AS settled
    FROM done AS d WHERE d.batch_id IS NOT NULL GROUP BY d.batch_id
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
SELECT d.id, d.lane_id, d.status, d.watched, d.idempotency_key, d.worker_id,
    ARRAY(SELECT s.id FROM settled AS s WHERE s.ended) AS ended_batches,
    ARRAY(SELECT s.id FROM settled AS s WHERE s.followed) AS followed_batches
FROM done AS d
