-- Of a tree that could not leave runs are started again: those that are parked are let go by release_runs, in a transaction of its own
-- or of anybody's. It is left alone for as long as it was parked. Indexes: moves_pkey, parkings_by_move.
WITH gone AS (DELETE FROM headrace.parkings AS p WHERE p.move_id = $1::uuid)
UPDATE headrace.moves AS m
SET parked_until = NULL,
    park_after = headrace.clock() + make_interval(secs => least($2::float8 * power(2, least(m.parkings - 1, 30)), $3::float8))
WHERE m.id = $1::uuid AND m.cut_at IS NULL AND m.parked_until IS NOT NULL
RETURNING m.id
