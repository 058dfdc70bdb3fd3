-- It could not be delivered: it is tried again after a while, which grows from try to try up to $2 seconds. Index: outbox_pkey.
UPDATE headrace.outbox AS o
SET due_at = headrace.clock() + make_interval(secs => least(0.25 * 2 ^ least(o.tries, 20), $2::float8))
WHERE o.id = ANY($1::bigint[])
