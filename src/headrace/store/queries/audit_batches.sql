-- A slice of the batches that are sealed and have not ended, with ids above $1: $2 of them at most, and no more than have
-- about $3 items to be counted. Beside each, what its items say and whether that is something else. A completion writes the
-- run and the batch in one transaction, and one statement sees one moment: what disagrees is wrong, not late. A batch in which
-- something moved within $4 seconds is not counted: it is not stuck. Indexes: batches_open, runs_pkey, batch_aliases_pkey.
WITH slice AS MATERIALIZED (
    SELECT b.environment_id, b.id, b.run_count, b.accepted, b.aliased, b.settled, b.succeeded,
        b.updated_at <= headrace.clock() - make_interval(secs => $4::float8) AS quiet
    FROM headrace.batches AS b
    WHERE b.sealed_at IS NOT NULL AND b.completed_at IS NULL AND b.id > $1::uuid
    ORDER BY b.id LIMIT $2::integer
),
weighed AS MATERIALIZED (
    SELECT s.*, coalesce(sum(s.run_count) FILTER (WHERE s.quiet)
        OVER (ORDER BY s.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS items_before
    FROM slice AS s
)
SELECT w.environment_id, w.id, w.run_count, w.accepted, w.settled, w.succeeded, i.missing, i.settled AS items_settled,
    i.succeeded AS items_succeeded,
    i.missing IS NOT NULL AND (
        w.accepted <> w.run_count OR w.aliased <> i.aliased OR w.settled <> i.settled OR w.succeeded <> i.succeeded
        OR w.settled >= w.run_count
    ) AS wrong
FROM weighed AS w LEFT JOIN LATERAL headrace.count_items(w.environment_id, w.id, w.run_count) AS i ON w.quiet
WHERE w.items_before < $3::integer
ORDER BY w.id
