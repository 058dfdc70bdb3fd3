-- All API keys, the revoked ones too.
SELECT k.id, k.name, e.slug AS environment, k.hint, k.created_at, k.revoked_at
FROM headrace.api_keys AS k JOIN headrace.environments AS e ON e.id = k.environment_id ORDER BY k.id
