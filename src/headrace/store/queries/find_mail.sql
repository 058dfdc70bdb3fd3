-- Which stores are to be told something now, and in how many seconds the next ones are. Index: outbox_due.
WITH RECURSIVE stores AS (
    (SELECT o.store, o.due_at FROM headrace.outbox AS o ORDER BY o.store, o.due_at, o.id LIMIT 1)
    UNION ALL
    SELECT n.store, n.due_at FROM stores AS s CROSS JOIN LATERAL (
        SELECT o.store, o.due_at FROM headrace.outbox AS o WHERE o.store > s.store ORDER BY o.store, o.due_at, o.id LIMIT 1
    ) AS n
)
SELECT s.store, extract(epoch FROM s.due_at - headrace.clock())::float8 AS due_in FROM stores AS s
