-- How many runs of this store's outbox are to be made in the store $1 still, counted to $2. Index: outbox_due.
SELECT count(*)::integer AS found
FROM (SELECT FROM headrace.outbox AS o WHERE o.store = $1::text AND o.kind = 'trigger' LIMIT $2::integer) AS f
