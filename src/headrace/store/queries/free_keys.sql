-- Frees the keys of runs that failed, where they still stand for them. Index: idempotency_keys_pkey.
DELETE FROM headrace.idempotency_keys AS h
USING (
    SELECT 'task:' || l.task AS scope, k.key_hash, k.run_id
    FROM unnest($2::integer[], $3::bytea[], $4::uuid[]) AS k (lane_id, key_hash, run_id)
    JOIN headrace.lanes AS l ON l.id = k.lane_id
) AS k
WHERE h.environment_id = $1::integer AND h.scope = k.scope AND h.key_hash = k.key_hash AND h.target_id = k.run_id
