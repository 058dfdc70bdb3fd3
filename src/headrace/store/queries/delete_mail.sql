-- It was delivered. Index: outbox_pkey.
DELETE FROM headrace.outbox AS o WHERE o.id = ANY($1::bigint[])
