-- A new API key; nothing where the same secret is there already (a first start that is repeated).
INSERT INTO headrace.api_keys (environment_id, name, secret_hash, hint)
SELECT e.id, $2::text, $3::bytea, $4::text FROM headrace.environments AS e WHERE e.slug = $1::text
ON CONFLICT (secret_hash) DO NOTHING
RETURNING id, environment_id
