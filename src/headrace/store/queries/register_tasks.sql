-- What a worker says of its tasks; the last word counts.
INSERT INTO headrace.tasks (environment_id, id, queue, max_attempts, registered_at)
SELECT $1::integer, t.id, t.queue, t.max_attempts, headrace.clock()
FROM unnest($2::text[], $3::text[], $4::integer[]) AS t (id, queue, max_attempts) ORDER BY t.id
ON CONFLICT (environment_id, id) DO UPDATE
SET queue = EXCLUDED.queue, max_attempts = EXCLUDED.max_attempts, registered_at = EXCLUDED.registered_at
