-- Lets a key that the caller holds stand for this run, for so long from now. Index: idempotency_keys_pkey.
UPDATE headrace.idempotency_keys
SET target_id = $4::uuid, expires_at = headrace.clock() + make_interval(secs => $5::float8)
WHERE environment_id = $1::integer AND scope = $2::text AND key_hash = $3::bytea
