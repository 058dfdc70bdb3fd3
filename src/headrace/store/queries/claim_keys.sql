-- Claims keys for runs or batches that are about to be. A live key is left as it is, but locked until the transaction ends,
-- so that what it stands for can be read next; one whose time is over is taken. Gives back the claims that won. Index: idempotency_keys_pkey.
INSERT INTO headrace.idempotency_keys (environment_id, scope, key_hash, target_id, fingerprint, expires_at)
SELECT $1::integer, k.scope, k.key_hash, k.target_id, k.fingerprint, headrace.clock() + make_interval(secs => k.ttl)
FROM unnest($2::text[], $3::bytea[], $4::uuid[], $5::bytea[], $6::float8[]) AS k (scope, key_hash, target_id, fingerprint, ttl)
ORDER BY k.scope, k.key_hash
ON CONFLICT (environment_id, scope, key_hash) DO UPDATE
SET target_id = EXCLUDED.target_id, fingerprint = EXCLUDED.fingerprint, expires_at = EXCLUDED.expires_at, reserved_at = NULL
WHERE idempotency_keys.expires_at <= headrace.clock()
RETURNING scope, key_hash
