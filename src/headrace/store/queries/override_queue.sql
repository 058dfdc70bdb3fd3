-- An operator's word over what was declared of a queue: a number of runs or a part of the environment's; neither takes it back.
-- Index: queues_environment_id_name_key.
INSERT INTO headrace.queues AS q (environment_id, name, override_limit, override_percent, overridden_at, created_at, updated_at)
VALUES ($1::integer, $2::text, $3::integer, $4::float8, headrace.clock(), headrace.clock(), headrace.clock())
ON CONFLICT (environment_id, name) DO UPDATE
SET override_limit = EXCLUDED.override_limit, override_percent = EXCLUDED.override_percent,
    overridden_at = CASE WHEN $3::integer IS NOT NULL OR $4::float8 IS NOT NULL THEN EXCLUDED.overridden_at END,
    updated_at = EXCLUDED.updated_at
RETURNING q.name
