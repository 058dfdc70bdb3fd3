-- Of these points, (run, point), which a worker has in its memory, ends those whose time has come by the database's clock; the
-- seconds that the others have left. Index: journal_pkey.
WITH due AS (
    UPDATE headrace.journal AS j SET pending = false, done_at = headrace.clock()
    FROM (SELECT $1::integer AS environment_id, u.* FROM unnest($2::uuid[], $3::text[]) AS u (run_id, point) OFFSET 0) AS w
    WHERE j.environment_id = w.environment_id AND j.run_id = w.run_id AND j.point = w.point AND j.pending
        AND j.due_at <= headrace.clock()
    RETURNING j.point
)
SELECT w.run_id, w.point, left_over.due_in
FROM (SELECT $1::integer AS environment_id, u.* FROM unnest($2::uuid[], $3::text[]) AS u (run_id, point) OFFSET 0) AS w
CROSS JOIN LATERAL (
    SELECT extract(epoch FROM j.due_at - headrace.clock())::float8 AS due_in FROM headrace.journal AS j
    WHERE j.environment_id = w.environment_id AND j.run_id = w.run_id AND j.point = w.point AND j.pending
        AND j.due_at > headrace.clock()
    LIMIT 1
) AS left_over
