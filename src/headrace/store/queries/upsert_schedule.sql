-- A schedule, or the one that its deduplication key stands for, changed to what is asked for now. Where pattern and time zone
-- stay, so does its next tick: one that is due already is not lost. Index: schedules_by_key.
INSERT INTO headrace.schedules AS s (
    environment_id, id, declared, deduplication_key, task, external_id, pattern, timezone, catch_up, options, next_tick,
    created_at, updated_at
)
SELECT $1::integer, $2::uuid, false, $3::text, $4::text, $5::text, $6::text, $7::text, $8::text, $9::text::jsonb,
    $10::timestamptz, t.now, t.now
FROM (SELECT headrace.clock() AS now) AS t
ON CONFLICT (environment_id, deduplication_key) WHERE NOT declared DO UPDATE
SET task = EXCLUDED.task, external_id = EXCLUDED.external_id, pattern = EXCLUDED.pattern, timezone = EXCLUDED.timezone,
    catch_up = EXCLUDED.catch_up, options = EXCLUDED.options, fault = NULL, updated_at = EXCLUDED.updated_at,
    next_tick = CASE WHEN (s.pattern, s.timezone) = (EXCLUDED.pattern, EXCLUDED.timezone) THEN s.next_tick ELSE EXCLUDED.next_tick END
RETURNING s.id, s.environment_id, s.declared, s.task, s.deduplication_key, s.external_id, s.pattern, s.timezone, s.catch_up,
    s.options::text AS options, s.active, s.next_tick, s.last_tick, s.last_run_id, s.fault, s.created_at, s.updated_at
