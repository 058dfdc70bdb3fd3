-- Whether a store takes new roots, by its key; and so it does until the end of this transaction: who drains it waits for that. Index: stores_pkey.
SELECT FROM headrace.stores AS s WHERE s.key = $1::text AND s.state = 'active' FOR SHARE
