-- Ticks are done with: the next one of each schedule, and the latest that made a run (NULL: none did now). One that never ticks
-- again is left without a next tick. The transaction holds the rows. Index: schedules_pkey.
UPDATE headrace.schedules AS s
SET next_tick = n.next_tick, last_tick = coalesce(n.last_tick, s.last_tick), last_run_id = coalesce(n.last_run_id, s.last_run_id),
    fault = n.fault
FROM unnest($1::integer[], $2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::uuid[], $6::text[])
    AS n (environment_id, id, next_tick, last_tick, last_run_id, fault)
WHERE s.environment_id = n.environment_id AND s.id = n.id
