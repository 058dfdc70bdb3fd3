-- Settles the items that stand for runs which have just ended. Run after the transaction has written those ends and as a
-- statement of its own, so that it sees every alias whose writer found the run unended. Index: batch_aliases_open.
WITH ended AS (
    UPDATE headrace.batch_aliases AS a SET settled = true
    FROM unnest($2::uuid[], $3::boolean[]) AS e (run_id, succeeded)
    WHERE a.environment_id = $1::integer AND a.run_id = e.run_id AND NOT a.settled
    RETURNING a.batch_id, e.succeeded
),
tally AS (
    SELECT batch_id, count(*)::integer AS settled, (count(*) FILTER (WHERE succeeded))::integer AS succeeded
    FROM ended GROUP BY batch_id
),
locked AS (
    SELECT b.environment_id, b.id, t.settled, t.succeeded
    FROM tally AS t JOIN headrace.batches AS b ON b.environment_id = $1::integer AND b.id = t.batch_id
    ORDER BY b.id FOR UPDATE OF b
)
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
