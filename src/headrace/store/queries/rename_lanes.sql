-- What was put on a task's own queue before it was known that its code names another is on that one. Where there is a lane already, it
-- stays, and claims take it for one of that queue. Its id stays, and with it the lines of order keys. Index: lanes_by_name.
UPDATE headrace.lanes AS l SET queue = t.queue
FROM headrace.tasks AS t
WHERE t.environment_id = $1::integer AND t.id = ANY($2::text[]) AND t.queue <> 'task/' || t.id
    AND l.environment_id = $1::integer AND l.task = t.id AND l.queue = 'task/' || t.id
    AND NOT EXISTS (
        SELECT FROM headrace.lanes AS o
        WHERE o.environment_id = l.environment_id AND o.task = l.task AND o.queue = t.queue
            AND o.batch_id IS NOT DISTINCT FROM l.batch_id AND o.version IS NOT DISTINCT FROM l.version
            AND o.kind = l.kind AND o.locked = l.locked
    )
