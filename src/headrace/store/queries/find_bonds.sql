-- What ties a tree, which the caller has locked, to others that go on without it: whatever waits, of either, for the other, runs
-- that have to be in a line with others, and batches that get items still. A few. Indexes: move_members_pkey, journal_pkey,
-- journal_waiters, runs_pkey, batch_aliases_pkey, batch_aliases_by_run, interests_pkey, outbox_by_target.
SELECT b.what, b.id, b.other FROM (
    SELECT 'waits for' AS what, j.run_id AS id, j.target AS other
    FROM headrace.move_members AS m
    JOIN headrace.journal AS j ON j.environment_id = $2::integer AND j.run_id = m.id
    WHERE m.move_id = $1::uuid AND m.kind = 'run' AND j.pending AND j.target IS NOT NULL AND NOT EXISTS (
        SELECT FROM headrace.move_members AS o
        WHERE o.move_id = $1::uuid AND o.kind = CASE j.kind WHEN 'progress' THEN 'batch' ELSE j.kind::text END AND o.id = j.target
    )
    UNION ALL
    SELECT 'is waited for by', j.target, j.run_id
    FROM headrace.move_members AS m
    JOIN headrace.journal AS j ON j.environment_id = $2::integer AND j.target = m.id AND j.pending AND j.target IS NOT NULL
    WHERE m.move_id = $1::uuid AND m.kind = CASE j.kind WHEN 'progress' THEN 'batch' ELSE j.kind::text END AND NOT EXISTS (
        SELECT FROM headrace.move_members AS o WHERE o.move_id = $1::uuid AND o.kind = 'run' AND o.id = j.run_id
    )
    UNION ALL
    SELECT 'has an item that stands for', a.batch_id, a.run_id
    FROM headrace.move_members AS m
    JOIN headrace.batch_aliases AS a ON a.environment_id = $2::integer AND a.batch_id = m.id
    WHERE m.move_id = $1::uuid AND m.kind = 'batch' AND NOT a.settled AND NOT EXISTS (
        SELECT FROM headrace.move_members AS o WHERE o.move_id = $1::uuid AND o.kind = 'run' AND o.id = a.run_id
    )
    UNION ALL
    SELECT 'is what an item stands for of', a.run_id, a.batch_id
    FROM headrace.move_members AS m
    JOIN headrace.batch_aliases AS a ON a.environment_id = $2::integer AND a.run_id = m.id
    WHERE m.move_id = $1::uuid AND m.kind = 'run' AND NOT a.settled AND NOT EXISTS (
        SELECT FROM headrace.move_members AS o WHERE o.move_id = $1::uuid AND o.kind = 'batch' AND o.id = a.batch_id
    )
    UNION ALL
    SELECT 'is waited for in another store', m.id, NULL
    FROM headrace.move_members AS m
    WHERE m.move_id = $1::uuid AND (
        EXISTS (SELECT FROM headrace.interests AS i WHERE i.environment_id = $2::integer AND i.target_id = m.id)
        OR EXISTS (SELECT FROM headrace.outbox AS o WHERE o.environment_id = $2::integer AND o.target_id = m.id)
    )
    UNION ALL
    SELECT 'is being filled', b.id, NULL
    FROM headrace.move_members AS m
    JOIN headrace.batches AS b ON b.environment_id = $2::integer AND b.id = m.id
    WHERE m.move_id = $1::uuid AND m.kind = 'batch' AND b.status = 'PENDING' AND b.sealed_at IS NULL
    UNION ALL
    SELECT CASE WHEN r.order_key IS NOT NULL THEN 'has its turn among the runs of an order key' ELSE 'is delayed under a debounce key' END,
        m.id, NULL
    FROM headrace.move_members AS m
    JOIN headrace.runs AS r ON r.environment_id = $2::integer AND r.id = m.id
    WHERE m.move_id = $1::uuid AND m.kind = 'run' AND r.finished_at IS NULL
        AND (r.order_key IS NOT NULL OR (r.options ? 'debounce' AND r.attempt = 0 AND r.delayed_until > headrace.clock()))
) AS b
LIMIT 3
