-- Moves that are not over, those first that were tried the longest ago. There are few: no index.
SELECT m.id, m.environment_id, m.unit_id, m.kind, m.store, m.held_up, m.cut_at IS NOT NULL AS cut,
    m.parked_until IS NOT NULL AS parked, coalesce(m.parked_until <= headrace.clock(), false) AS parked_too_long
FROM headrace.moves AS m
ORDER BY m.cut_at IS NULL, m.tried_at NULLS FIRST, m.asked_at
LIMIT $1::integer
