-- Lets a key stand for another run. Index: idempotency_keys_pkey.
UPDATE headrace.idempotency_keys SET target_id = $4::uuid
WHERE environment_id = $1::integer AND scope = $2::text AND key_hash = $3::bytea
