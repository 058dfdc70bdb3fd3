-- What ties a tree, which the caller has locked, to others that go on without it: whatever waits, of either, for the other, runs
-- that have to be in a line with others, and batches that get items still. A few. Each member is asked for by itself (OFFSET 0, LIMIT):
-- a join may be planned as one of all journals. Indexes: move_members_pkey, journal_pkey, journal_waiters, runs_pkey,
-- batch_aliases_pkey, batch_aliases_by_run, interests_pkey, outbox_by_target.
SELECT b.what, b.id, b.other FROM (
    SELECT 'waits for' AS what, m.id, j.target AS other
    FROM headrace.move_members AS m CROSS JOIN LATERAL (
        SELECT j.target, CASE j.kind WHEN 'progress' THEN 'batch' ELSE j.kind::text END AS kind FROM headrace.journal AS j
        WHERE j.environment_id = $2::integer AND j.run_id = m.id AND j.pending AND j.target IS NOT NULL
        OFFSET 0
    ) AS j
    WHERE m.move_id = $1::uuid AND m.kind = 'run' AND NOT EXISTS (
        SELECT FROM headrace.move_members AS o WHERE o.move_id = $1::uuid AND o.kind = j.kind AND o.id = j.target
    )
    UNION ALL
    SELECT 'is waited for by', m.id, j.run_id
    FROM headrace.move_members AS m CROSS JOIN LATERAL (
        SELECT j.run_id, CASE j.kind WHEN 'progress' THEN 'batch' ELSE j.kind::text END AS kind FROM headrace.journal AS j
        WHERE j.environment_id = $2::integer AND j.target = m.id AND j.pending AND j.target IS NOT NULL
        OFFSET 0
    ) AS j
    WHERE m.move_id = $1::uuid AND m.kind = j.kind AND NOT EXISTS (
        SELECT FROM headrace.move_members AS o WHERE o.move_id = $1::uuid AND o.kind = 'run' AND o.id = j.run_id
    )
    UNION ALL
    SELECT 'has an item that stands for', m.id, a.run_id
    FROM headrace.move_members AS m CROSS JOIN LATERAL (
        SELECT a.run_id FROM headrace.batch_aliases AS a
        WHERE a.environment_id = $2::integer AND a.batch_id = m.id AND NOT a.settled
        OFFSET 0
    ) AS a
    WHERE m.move_id = $1::uuid AND m.kind = 'batch' AND NOT EXISTS (
        SELECT FROM headrace.move_members AS o WHERE o.move_id = $1::uuid AND o.kind = 'run' AND o.id = a.run_id
    )
    UNION ALL
    SELECT 'is what an item stands for of', m.id, a.batch_id
    FROM headrace.move_members AS m CROSS JOIN LATERAL (
        SELECT a.batch_id FROM headrace.batch_aliases AS a
        WHERE a.environment_id = $2::integer AND a.run_id = m.id AND NOT a.settled
        OFFSET 0
    ) AS a
    WHERE m.move_id = $1::uuid AND m.kind = 'run' AND NOT EXISTS (
        SELECT FROM headrace.move_members AS o WHERE o.move_id = $1::uuid AND o.kind = 'batch' AND o.id = a.batch_id
    )
    UNION ALL
    SELECT 'is waited for in another store', m.id, NULL
    FROM headrace.move_members AS m
    WHERE m.move_id = $1::uuid AND (
        coalesce((SELECT true FROM headrace.interests AS i WHERE i.environment_id = $2::integer AND i.target_id = m.id LIMIT 1), false)
        OR coalesce((SELECT true FROM headrace.outbox AS o WHERE o.environment_id = $2::integer AND o.target_id = m.id LIMIT 1), false)
    )
    UNION ALL
    SELECT 'is being filled', m.id, NULL
    FROM headrace.move_members AS m CROSS JOIN LATERAL (
        SELECT FROM headrace.batches AS b
        WHERE b.environment_id = $2::integer AND b.id = m.id AND b.status = 'PENDING' AND b.sealed_at IS NULL
        LIMIT 1
    ) AS b
    WHERE m.move_id = $1::uuid AND m.kind = 'batch'
    UNION ALL
    SELECT r.what, m.id, NULL
    FROM headrace.move_members AS m CROSS JOIN LATERAL (
        SELECT CASE WHEN r.order_key IS NOT NULL THEN 'has its turn among the runs of an order key'
            ELSE 'is delayed under a debounce key' END AS what
        FROM headrace.runs AS r
        WHERE r.environment_id = $2::integer AND r.id = m.id AND r.finished_at IS NULL
            AND (r.order_key IS NOT NULL OR (r.options ? 'debounce' AND r.attempt = 0 AND r.delayed_until > headrace.clock()))
        LIMIT 1
    ) AS r
    WHERE m.move_id = $1::uuid AND m.kind = 'run'
) AS b
LIMIT 3
