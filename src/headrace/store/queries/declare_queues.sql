-- What the code or the API says that queues may do at once; the last word counts. What an operator said over it stays. Returns those
-- of which something new was said. In one order everywhere, so that two of these can't deadlock. Index: queues_environment_id_name_key.
INSERT INTO headrace.queues AS q (
    environment_id, name, declared_limit, key_limit, rate_limit, rate_period, rate_by_key, keeps_slots, created_at, updated_at
)
SELECT $1::integer, d.name, d.declared_limit, d.key_limit, d.rate_limit, d.rate_period, d.rate_by_key, d.keeps_slots,
    headrace.clock(), headrace.clock()
FROM unnest($2::text[], $3::integer[], $4::integer[], $5::integer[], $6::float8[], $7::boolean[], $8::boolean[])
    AS d (name, declared_limit, key_limit, rate_limit, rate_period, rate_by_key, keeps_slots)
-- of a queue that has no row, that it has no limits need not be said
WHERE (d.declared_limit, d.key_limit, d.rate_limit) IS DISTINCT FROM (NULL::integer, NULL::integer, NULL::integer) OR d.keeps_slots
    OR EXISTS (SELECT FROM headrace.queues AS k WHERE k.environment_id = $1::integer AND k.name = d.name)
ORDER BY d.name
ON CONFLICT (environment_id, name) DO UPDATE
SET declared_limit = EXCLUDED.declared_limit, key_limit = EXCLUDED.key_limit, rate_limit = EXCLUDED.rate_limit,
    rate_period = EXCLUDED.rate_period, rate_by_key = EXCLUDED.rate_by_key, keeps_slots = EXCLUDED.keeps_slots,
    updated_at = EXCLUDED.updated_at
WHERE (q.declared_limit, q.key_limit, q.rate_limit, q.rate_period, q.rate_by_key, q.keeps_slots)
    IS DISTINCT FROM (EXCLUDED.declared_limit, EXCLUDED.key_limit, EXCLUDED.rate_limit, EXCLUDED.rate_period,
        EXCLUDED.rate_by_key, EXCLUDED.keeps_slots)
RETURNING q.name
