-- Takes keys away that stand for these targets, and for no other by now. Index: idempotency_keys_pkey.
DELETE FROM headrace.idempotency_keys AS h
USING unnest($2::text[], $3::bytea[], $4::uuid[]) AS k (scope, key_hash, target_id)
WHERE h.environment_id = $1::integer AND h.scope = k.scope AND h.key_hash = k.key_hash AND h.target_id = k.target_id
