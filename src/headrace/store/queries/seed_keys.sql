-- Writes here what keys stand for at home, their authority, over whatever stands here. Index: idempotency_keys_pkey.
INSERT INTO headrace.idempotency_keys (environment_id, scope, key_hash, target_id, fingerprint, expires_at)
SELECT $1::integer, k.scope, k.key_hash, k.target_id, k.fingerprint, headrace.clock() + make_interval(secs => k.seconds)
FROM unnest($2::text[], $3::bytea[], $4::uuid[], $5::bytea[], $6::float8[])
    AS k (scope, key_hash, target_id, fingerprint, seconds)
ORDER BY k.scope, k.key_hash
ON CONFLICT (environment_id, scope, key_hash) DO UPDATE
SET target_id = EXCLUDED.target_id, fingerprint = EXCLUDED.fingerprint, expires_at = EXCLUDED.expires_at
