-- One schedule. Index: schedules_pkey.
SELECT s.id, s.environment_id, s.declared, s.task, s.deduplication_key, s.external_id, s.pattern, s.timezone, s.catch_up,
    s.options::text AS options, s.active, s.next_tick, s.last_tick, s.last_run_id, s.fault, s.created_at, s.updated_at
FROM headrace.schedules AS s WHERE s.environment_id = $1::integer AND s.id = $2::uuid
