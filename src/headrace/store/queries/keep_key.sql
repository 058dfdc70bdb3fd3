-- Lets a key hold until so long after a date, where it stands for this run still. Index: idempotency_keys_pkey.
UPDATE headrace.idempotency_keys
SET expires_at = greatest(expires_at, $5::timestamptz + make_interval(secs => $6::float8))
WHERE environment_id = $1::integer AND scope = $2::text AND key_hash = $3::bytea AND target_id = $4::uuid
