-- What is said of queues is as home has it ($1, JSON rows); their numbers are each store's own. Returns those of which it was not.
-- Index: queues_environment_id_name_key.
INSERT INTO headrace.queues AS q (
    environment_id, name, declared_limit, override_limit, override_percent, overridden_at, key_limit, rate_limit, rate_period,
    rate_by_key, keeps_slots, paused_at, created_at, updated_at
)
SELECT h.environment_id, h.name, h.declared_limit, h.override_limit, h.override_percent, h.overridden_at, h.key_limit,
    h.rate_limit, h.rate_period, h.rate_by_key, h.keeps_slots, h.paused_at, h.created_at, h.updated_at
FROM jsonb_populate_recordset(NULL::headrace.queues, $1::jsonb) AS h ORDER BY h.environment_id, h.name
ON CONFLICT (environment_id, name) DO UPDATE
SET declared_limit = EXCLUDED.declared_limit, override_limit = EXCLUDED.override_limit,
    override_percent = EXCLUDED.override_percent, overridden_at = EXCLUDED.overridden_at, key_limit = EXCLUDED.key_limit,
    rate_limit = EXCLUDED.rate_limit, rate_period = EXCLUDED.rate_period, rate_by_key = EXCLUDED.rate_by_key,
    keeps_slots = EXCLUDED.keeps_slots, paused_at = EXCLUDED.paused_at, updated_at = EXCLUDED.updated_at
WHERE (q.declared_limit, q.override_limit, q.override_percent, q.overridden_at, q.key_limit, q.rate_limit, q.rate_period,
        q.rate_by_key, q.keeps_slots, q.paused_at)
    IS DISTINCT FROM (EXCLUDED.declared_limit, EXCLUDED.override_limit, EXCLUDED.override_percent, EXCLUDED.overridden_at,
        EXCLUDED.key_limit, EXCLUDED.rate_limit, EXCLUDED.rate_period, EXCLUDED.rate_by_key, EXCLUDED.keeps_slots,
        EXCLUDED.paused_at)
RETURNING q.environment_id, q.name
