-- One look, for the elected process only, at whether any deadline is over, and how soon the next one is: an idle system costs
-- this and no more. Indexes: workers_not_emptied, batches_unsealed, batches_held, idempotency_keys_expiry, lanes_by_batch,
-- journal_due, journal_canceling, tokens_due, schedules_due, runs_expiring, runs_parked, bulk_actions_pending,
-- bulk_parts_open, pg_class_oid_index.
SELECT e.elected AND (
    coalesce(w.next <= headrace.clock(), false)
    OR EXISTS (
        SELECT FROM headrace.workers
        WHERE emptied_at IS NULL AND (ended_at IS NOT NULL OR lease_until < headrace.clock())
    )
    OR EXISTS (
        SELECT FROM headrace.batches
        WHERE status = 'PENDING' AND sealed_at IS NULL AND processing_completed_at IS NULL
            AND seal_deadline <= headrace.clock()
    )
    OR EXISTS (
        SELECT FROM headrace.batches
        WHERE status = 'ABORTED' AND start_policy = 'seal' AND processing_completed_at IS NULL
    )
    OR EXISTS (SELECT FROM headrace.bulk_actions WHERE status = 'PENDING')
    OR p.parts
    OR EXISTS (SELECT FROM headrace.moves)
    OR coalesce((SELECT true FROM headrace.runs AS r WHERE r.parked IS NOT NULL ORDER BY r.environment_id, r.id LIMIT 1), false)
    OR EXISTS (SELECT FROM headrace.idempotency_keys WHERE expires_at <= headrace.clock())
    OR coalesce((SELECT true FROM headrace.journal AS j WHERE j.canceling ORDER BY j.environment_id, j.run_id LIMIT 1), false)
    OR EXISTS (
        SELECT FROM headrace.lanes AS l
        JOIN headrace.batches AS b ON b.environment_id = l.environment_id AND b.id = l.batch_id
        WHERE l.open AND l.batch_id IS NOT NULL AND b.status IN ('COMPLETED', 'PARTIAL_FAILED', 'ABORTED')
    )
) AS due,
CASE WHEN e.elected THEN extract(epoch FROM w.next - headrace.clock())::float8 END AS next_in,
e.elected AND p.parts AS parts,
-- what has grown from nothing since PostgreSQL has looked at it: see analyze_grown
e.elected AND EXISTS (
    SELECT FROM unnest('{runs,attempts,batches,journal,tokens,lanes,idempotency_keys,outbox,mirrors,interests}'::text[]) AS t (name)
    -- OFFSET 0: else the size of every table of the database is looked at, which takes milliseconds
    CROSS JOIN LATERAL (
        SELECT c.oid, c.relowner FROM pg_class AS c
        WHERE c.oid = to_regclass('headrace.' || t.name) AND c.relpages < 128 OFFSET 0
    ) AS c
    WHERE pg_relation_size(c.oid) >= 128 * current_setting('block_size')::bigint AND pg_has_role(c.relowner, 'USAGE')
) AS grown
FROM (SELECT pg_try_advisory_xact_lock(7305, 1) AS elected) AS e
CROSS JOIN (
    SELECT least(
        (SELECT j.due_at FROM headrace.journal AS j WHERE j.pending AND j.due_at IS NOT NULL ORDER BY j.due_at LIMIT 1),
        (SELECT t.timeout_at FROM headrace.tokens AS t WHERE t.status = 'WAITING' AND t.timeout_at IS NOT NULL ORDER BY t.timeout_at LIMIT 1),
        (SELECT d.kept_until FROM headrace.dev_sessions AS d ORDER BY d.kept_until LIMIT 1),
        (SELECT s.next_tick FROM headrace.schedules AS s WHERE s.active ORDER BY s.next_tick LIMIT 1),
        (SELECT r.expires_at FROM headrace.runs AS r WHERE r.status = 'QUEUED' AND r.expires_at IS NOT NULL ORDER BY r.expires_at LIMIT 1)
    ) AS next
) AS w
CROSS JOIN (SELECT EXISTS (SELECT FROM headrace.bulk_parts WHERE status = 'PENDING') AS parts) AS p
