-- In a store other than home: what a worker's code says of queues of which nothing is said here yet. What home says comes with the next
-- copy of the control plane, and is what counts. Returns those that are new. Index: queues_environment_id_name_key.
INSERT INTO headrace.queues (
    environment_id, name, declared_limit, key_limit, rate_limit, rate_period, rate_by_key, keeps_slots, created_at, updated_at
)
SELECT $1::integer, d.name, d.declared_limit, d.key_limit, d.rate_limit, d.rate_period, d.rate_by_key, d.keeps_slots,
    headrace.clock(), headrace.clock()
FROM unnest($2::text[], $3::integer[], $4::integer[], $5::integer[], $6::float8[], $7::boolean[], $8::boolean[])
    AS d (name, declared_limit, key_limit, rate_limit, rate_period, rate_by_key, keeps_slots)
WHERE (d.declared_limit, d.key_limit, d.rate_limit) IS DISTINCT FROM (NULL::integer, NULL::integer, NULL::integer) OR d.keeps_slots
ORDER BY d.name
ON CONFLICT (environment_id, name) DO NOTHING
RETURNING name
