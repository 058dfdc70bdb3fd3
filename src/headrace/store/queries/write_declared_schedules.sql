-- Schedules as the code of their tasks declares them. Whether one is active is not the code's to say. Index: schedules_pkey.
INSERT INTO headrace.schedules AS s (
    environment_id, id, declared, task, pattern, timezone, catch_up, options, next_tick, created_at, updated_at
)
SELECT $1::integer, d.id, true, d.task, d.pattern, d.timezone, d.catch_up, d.options::jsonb, d.next_tick, t.now, t.now
FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::timestamptz[])
    AS d (id, task, pattern, timezone, catch_up, options, next_tick)
CROSS JOIN (SELECT headrace.clock() AS now) AS t
ORDER BY d.id
ON CONFLICT (environment_id, id) DO UPDATE
SET pattern = EXCLUDED.pattern, timezone = EXCLUDED.timezone, catch_up = EXCLUDED.catch_up, options = EXCLUDED.options,
    fault = NULL, updated_at = EXCLUDED.updated_at,
    next_tick = CASE WHEN (s.pattern, s.timezone) = (EXCLUDED.pattern, EXCLUDED.timezone) THEN s.next_tick ELSE EXCLUDED.next_tick END
