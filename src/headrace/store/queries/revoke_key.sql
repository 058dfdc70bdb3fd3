-- Revokes a key once; the time of the first revocation stays.
UPDATE headrace.api_keys SET revoked_at = headrace.clock() WHERE id = $1::integer AND revoked_at IS NULL RETURNING id, environment_id
