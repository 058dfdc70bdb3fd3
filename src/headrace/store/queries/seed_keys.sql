-- Writes what keys stand for, and whether that is only reserved, over whatever stands here. Index: idempotency_keys_pkey.
INSERT INTO headrace.idempotency_keys (environment_id, scope, key_hash, target_id, fingerprint, expires_at, reserved_at)
SELECT $1::integer, k.scope, k.key_hash, k.target_id, k.fingerprint, headrace.clock() + make_interval(secs => k.seconds),
    CASE WHEN k.reserved THEN clock_timestamp() END
FROM unnest($2::text[], $3::bytea[], $4::uuid[], $5::bytea[], $6::float8[], $7::boolean[])
    AS k (scope, key_hash, target_id, fingerprint, seconds, reserved)
ORDER BY k.scope, k.key_hash
ON CONFLICT (environment_id, scope, key_hash) DO UPDATE
SET target_id = EXCLUDED.target_id, fingerprint = EXCLUDED.fingerprint, expires_at = EXCLUDED.expires_at,
    reserved_at = EXCLUDED.reserved_at
