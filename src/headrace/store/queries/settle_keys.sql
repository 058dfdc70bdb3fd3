-- What keys were reserved for is made, in this transaction or before it. Index: idempotency_keys_pkey.
UPDATE headrace.idempotency_keys AS h SET reserved_at = NULL
FROM unnest($2::text[], $3::bytea[], $4::uuid[]) AS k (scope, key_hash, target_id)
WHERE h.environment_id = $1::integer AND h.scope = k.scope AND h.key_hash = k.key_hash AND h.target_id = k.target_id
