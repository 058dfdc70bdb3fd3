-- What a worker says of its tasks; the last word counts.
INSERT INTO headrace.tasks (environment_id, id, queue, max_attempts, skips_failed, coalesces, registered_at)
SELECT $1::integer, t.id, t.queue, t.max_attempts, t.skips_failed, t.coalesces, headrace.clock()
FROM unnest($2::text[], $3::text[], $4::integer[], $5::boolean[], $6::integer[])
    AS t (id, queue, max_attempts, skips_failed, coalesces) ORDER BY t.id
ON CONFLICT (environment_id, id) DO UPDATE
SET queue = EXCLUDED.queue, max_attempts = EXCLUDED.max_attempts, skips_failed = EXCLUDED.skips_failed,
    coalesces = EXCLUDED.coalesces, registered_at = EXCLUDED.registered_at
