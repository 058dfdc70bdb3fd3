-- Schedules with a tick that is due, held until their runs are made and their next tick is written; and the time. One that
-- somebody is changing now is left for the next look. Index: schedules_due.
SELECT s.id, s.environment_id, s.declared, s.task, s.deduplication_key, s.external_id, s.pattern, s.timezone, s.catch_up,
    s.options::text AS options, s.active, s.next_tick, s.last_tick, s.last_run_id, s.fault, s.created_at, s.updated_at,
    headrace.clock() AS now
FROM headrace.schedules AS s WHERE s.active AND s.next_tick <= headrace.clock()
ORDER BY s.next_tick LIMIT $1::integer FOR UPDATE SKIP LOCKED
