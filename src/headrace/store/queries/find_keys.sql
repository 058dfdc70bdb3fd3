-- What keys stand for, and whether that is only reserved. Index: idempotency_keys_pkey.
SELECT h.scope, h.key_hash, h.target_id, h.fingerprint, h.reserved_at IS NOT NULL AS reserved
FROM unnest($2::text[], $3::bytea[]) AS k (scope, key_hash)
JOIN headrace.idempotency_keys AS h
    ON h.environment_id = $1::integer AND h.scope = k.scope AND h.key_hash = k.key_hash
