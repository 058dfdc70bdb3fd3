-- A move that has not left, held by this transaction; nothing where somebody else holds it. Index: moves_pkey.
SELECT m.id, m.environment_id, m.unit_id, m.kind, m.store FROM headrace.moves AS m
WHERE m.id = $1::uuid AND m.cut_at IS NULL
FOR UPDATE SKIP LOCKED
