-- The live key with a hash, and its environment. Index: api_keys_secret_hash_key.
SELECT k.secret_hash, e.id, e.slug, e.signing_secret
FROM headrace.api_keys AS k JOIN headrace.environments AS e ON e.id = k.environment_id
WHERE k.secret_hash = $1::bytea AND k.revoked_at IS NULL
