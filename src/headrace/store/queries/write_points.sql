-- Durable points of one run. What is there already stays as it is (the same write, repeated after its answer got lost), but a
-- step that is not over yet may go on, and more of a batch may be waited for again. Gives back what was written; the due time in seconds from now. Index: journal_pkey.
INSERT INTO headrace.journal AS j (
    environment_id, run_id, point, kind, pending, made, seen, target, due_at, failures, succeeded, value, value_type, error, cascade,
    created_at, done_at
)
SELECT $1::integer, $2::uuid, p.point, p.kind::headrace.point_kind, p.pending, p.made, p.seen, p.target,
    coalesce(p.until, t.now + make_interval(secs => p.due_in)), coalesce(p.failures, 0), p.succeeded, p.value, p.value_type,
    p.error::jsonb, coalesce(p.cascade, true), t.now, CASE WHEN NOT p.pending THEN t.now END
FROM unnest(
    $3::text[], $4::text[], $5::boolean[], $6::integer[], $7::integer[], $8::uuid[], $9::float8[], $10::timestamptz[],
    $11::integer[], $12::boolean[], $13::bytea[], $14::text[], $15::text[], $16::boolean[]
) AS p (point, kind, pending, made, seen, target, due_in, until, failures, succeeded, value, value_type, error, cascade)
CROSS JOIN (SELECT headrace.clock() AS now) AS t
ON CONFLICT (environment_id, run_id, point) DO UPDATE
SET pending = EXCLUDED.pending, seen = EXCLUDED.seen, due_at = EXCLUDED.due_at, failures = EXCLUDED.failures,
    succeeded = EXCLUDED.succeeded, value = EXCLUDED.value, value_type = EXCLUDED.value_type, error = EXCLUDED.error,
    done_at = EXCLUDED.done_at
WHERE j.kind = 'progress' OR (j.kind = 'step' AND j.succeeded IS NULL)
RETURNING j.point, extract(epoch FROM j.due_at - headrace.clock())::float8 AS due_in
