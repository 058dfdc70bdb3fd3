-- A tree that has not left stays, or is not there. Indexes: moves_pkey,
-- parkings_by_move.
WITH freed AS (DELETE FROM headrace.parkings AS p WHERE p.move_id = $1::uuid)
DELETE FROM headrace.moves WHERE id = $1::uuid AND cut_at IS NULL
