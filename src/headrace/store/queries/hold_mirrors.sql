-- How runs or tokens ($2 says which) of other stores stand here, kept so until the transaction ends: who tells of an end later
-- finds what this transaction has written. In one order. Index: mirrors_pkey.
SELECT m.id, m.resolved_at IS NOT NULL AS ended, m.status IS NOT NULL AND m.status = 'COMPLETED' AS succeeded, true AS held
FROM headrace.mirrors AS m
WHERE m.environment_id = $1::integer AND m.kind = $2::text AND m.id = ANY($3::uuid[]) ORDER BY m.id FOR SHARE
