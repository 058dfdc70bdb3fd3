-- Pauses a queue ($3), or takes that back; one that is paused keeps the moment. Index: queues_environment_id_name_key.
INSERT INTO headrace.queues AS q (environment_id, name, paused_at, created_at, updated_at)
VALUES ($1::integer, $2::text, CASE WHEN $3::boolean THEN headrace.clock() END, headrace.clock(), headrace.clock())
ON CONFLICT (environment_id, name) DO UPDATE
SET paused_at = CASE WHEN $3::boolean THEN coalesce(q.paused_at, EXCLUDED.paused_at) END, updated_at = EXCLUDED.updated_at
RETURNING q.name
