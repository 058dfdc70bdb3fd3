-- What keys stand for, for how many seconds, and since how many they are reserved, those that hold no more left out; held
-- until the transaction ends, in the order in which claims take them. Indexes: idempotency_keys_pkey,
-- forwards_pkey.
SELECT h.scope, h.key_hash, h.target_id, h.fingerprint,
    extract(epoch FROM h.expires_at - headrace.clock())::float8 AS seconds,
    extract(epoch FROM clock_timestamp() - h.reserved_at)::float8 AS reserved_for,
    EXISTS (SELECT FROM headrace.forwards AS f WHERE f.id IN (h.target_id, headrace.item_run_id(h.target_id, 0))) AS moved
FROM unnest($2::text[], $3::bytea[]) AS k (scope, key_hash)
JOIN headrace.idempotency_keys AS h
    ON h.environment_id = $1::integer AND h.scope = k.scope AND h.key_hash = k.key_hash
WHERE h.expires_at > headrace.clock()
ORDER BY h.scope, h.key_hash
FOR UPDATE OF h
