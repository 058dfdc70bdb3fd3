-- Frees a key, whatever it stands for; one whose time is over stands for nothing. Index: idempotency_keys_pkey.
DELETE FROM headrace.idempotency_keys
WHERE environment_id = $1::integer AND scope = $2::text AND key_hash = $3::bytea AND expires_at > headrace.clock()
RETURNING target_id
