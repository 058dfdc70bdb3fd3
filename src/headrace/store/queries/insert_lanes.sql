-- Lanes that were missing. In one order everywhere, so that two of these can't deadlock.
INSERT INTO headrace.lanes (environment_id, task, queue, batch_id, open, version, kind, locked)
SELECT $1::integer, p.task, p.queue, $4::uuid, $5::boolean, coalesce(p.locked_to, $6::text), p.kind::headrace.lane_kind,
    p.locked_to IS NOT NULL
FROM unnest($2::text[], $3::text[], $7::text[], $8::text[]) AS p (task, queue, kind, locked_to)
ORDER BY p.task, p.queue, p.kind, p.locked_to
ON CONFLICT DO NOTHING
