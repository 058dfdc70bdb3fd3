-- What a schedule is to be from now on. The transaction holds its row. Index: schedules_pkey.
UPDATE headrace.schedules AS s
SET task = $3::text, external_id = $4::text, pattern = $5::text, timezone = $6::text, catch_up = $7::text,
    options = $8::text::jsonb, active = $9::boolean, next_tick = $10::timestamptz, fault = NULL, updated_at = headrace.clock()
WHERE s.environment_id = $1::integer AND s.id = $2::uuid
RETURNING s.id, s.environment_id, s.declared, s.task, s.deduplication_key, s.external_id, s.pattern, s.timezone, s.catch_up,
    s.options::text AS options, s.active, s.next_tick, s.last_tick, s.last_run_id, s.fault, s.created_at, s.updated_at
