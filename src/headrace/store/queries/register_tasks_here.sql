-- In a store other than home: a worker's tasks that are not known here yet. What home says of them comes with the next copy of the control
-- plane, and is what counts. Index: tasks_pkey.
INSERT INTO headrace.tasks (environment_id, id, queue, max_attempts, skips_failed, coalesces, registered_at)
SELECT $1::integer, t.id, t.queue, t.max_attempts, t.skips_failed, t.coalesces, headrace.clock()
FROM unnest($2::text[], $3::text[], $4::integer[], $5::boolean[], $6::integer[])
    AS t (id, queue, max_attempts, skips_failed, coalesces) ORDER BY t.id
ON CONFLICT (environment_id, id) DO NOTHING
