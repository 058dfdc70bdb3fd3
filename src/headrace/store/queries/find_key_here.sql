-- Which store the connection is to, and the live key with a hash and its environment, null where there is none.
-- Index: api_keys_secret_hash_key.
SELECT i.key AS store_key, i.name AS store_name, k.secret_hash, e.id
FROM headrace.identity AS i
LEFT JOIN headrace.api_keys AS k ON k.secret_hash = $1::bytea AND k.revoked_at IS NULL
LEFT JOIN headrace.environments AS e ON e.id = k.environment_id
