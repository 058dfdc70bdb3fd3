-- Mail for a store that is due, the oldest first, a bounded number; for $3 seconds nobody else takes it: then it is taken again,
-- unless it was delivered. Index: outbox_due.
UPDATE headrace.outbox AS o SET due_at = headrace.clock() + make_interval(secs => $3::float8), tries = o.tries + 1
WHERE o.id = ANY(ARRAY(
    SELECT d.id FROM headrace.outbox AS d
    WHERE d.store = $1::text AND d.due_at <= headrace.clock()
    ORDER BY d.due_at, d.id LIMIT $2::integer FOR UPDATE SKIP LOCKED
))
RETURNING o.id, o.environment_id, o.kind, o.target_id, o.message::text AS message, o.tries
