-- A move that is not over. Index: moves_pkey.
SELECT m.id, m.environment_id, m.unit_id, m.kind, m.store, m.cut_at IS NOT NULL AS cut FROM headrace.moves AS m
WHERE m.id = $1::uuid
