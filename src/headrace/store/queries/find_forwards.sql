-- Which of these have left this store, where to, and the move that they have not arrived with. Indexes: forwards_pkey, moves_pkey.
SELECT f.id, f.store, m.id AS move_id
FROM headrace.forwards AS f
LEFT JOIN LATERAL (SELECT m.id FROM headrace.moves AS m WHERE m.id = f.move_id LIMIT 1) AS m ON true
WHERE f.id = ANY($1::uuid[])
