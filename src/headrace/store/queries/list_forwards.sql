-- All forwards of a store, a part at a time. Index: forwards_pkey.
SELECT f.id, f.store FROM headrace.forwards AS f WHERE f.id > $1::uuid ORDER BY f.id LIMIT $2::integer
