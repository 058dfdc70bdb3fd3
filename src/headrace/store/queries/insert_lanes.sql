-- Lanes that were missing. In one order everywhere, so that two of these can't deadlock.
INSERT INTO headrace.lanes (environment_id, task, queue, batch_id, open, version)
SELECT $1::integer, p.task, p.queue, $4::uuid, $5::boolean, $6::text
FROM unnest($2::text[], $3::text[]) AS p (task, queue) ORDER BY p.task, p.queue
ON CONFLICT DO NOTHING
