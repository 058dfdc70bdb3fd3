-- The lanes of runs that arrive, where they are missing. One that nothing lies in may have been closed: it is opened again, but for
-- those of a batch, which are its seal's to open. In one order everywhere, so that two of these can't deadlock. Index: lanes_by_name.
INSERT INTO headrace.lanes AS l (environment_id, task, queue, batch_id, open, version, kind, locked)
SELECT DISTINCT n.environment_id, n.task, n.queue, n.batch_id, n.open OR n.batch_id IS NULL, n.version, n.kind, n.locked
FROM unnest($1::text[]) AS u (content)
CROSS JOIN LATERAL (
    SELECT u.content::jsonb -> 'lane' AS lane UNION ALL SELECT u.content::jsonb -> 'order_lane'
) AS w
CROSS JOIN LATERAL jsonb_populate_record(NULL::headrace.lanes, w.lane) AS n
WHERE jsonb_typeof(w.lane) = 'object'
ORDER BY n.environment_id, n.task, n.queue, n.kind, n.version, n.locked, n.batch_id
ON CONFLICT (environment_id, task, queue, batch_id, version, kind, locked) DO UPDATE SET open = true
WHERE NOT l.open AND l.batch_id IS NULL
