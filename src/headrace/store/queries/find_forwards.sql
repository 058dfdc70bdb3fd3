-- Which of these have left this store, where to, and the move that they have not arrived with. Indexes: forwards_pkey, moves_pkey.
SELECT f.id, f.store, m.id AS move_id FROM headrace.forwards AS f LEFT JOIN headrace.moves AS m ON m.id = f.move_id
WHERE f.id = ANY($1::uuid[])
