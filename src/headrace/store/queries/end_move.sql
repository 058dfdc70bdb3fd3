-- A tree has arrived: nothing of it is kept here but where it is. Indexes: departures_pkey, moves_pkey.
WITH gone AS (DELETE FROM headrace.departures AS d WHERE d.move_id = $1::uuid)
DELETE FROM headrace.moves WHERE id = $1::uuid AND cut_at IS NOT NULL
