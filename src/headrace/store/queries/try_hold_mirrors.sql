-- As hold_mirrors, but waits for nobody: one that is being resolved at this moment comes back as not held. Index: mirrors_pkey.
WITH there AS MATERIALIZED (
    SELECT m.id FROM headrace.mirrors AS m
    WHERE m.environment_id = $1::integer AND m.kind = $2::text AND m.id = ANY($3::uuid[])
),
free AS MATERIALIZED (
    SELECT m.id, m.resolved_at IS NOT NULL AS ended, m.status IS NOT NULL AND m.status = 'COMPLETED' AS succeeded
    FROM headrace.mirrors AS m
    WHERE m.environment_id = $1::integer AND m.kind = $2::text AND m.id = ANY($3::uuid[])
    ORDER BY m.id FOR SHARE SKIP LOCKED
)
SELECT t.id, f.ended, f.succeeded, f.id IS NOT NULL AS held FROM there AS t LEFT JOIN free AS f ON f.id = t.id
