-- Where something went that is not here, by its own id or, an item, by its batch's; and the move that it has not arrived with.
-- Indexes: forwards_pkey, moves_pkey.
SELECT f.store, m.id AS move_id FROM headrace.forwards AS f LEFT JOIN headrace.moves AS m ON m.id = f.move_id
WHERE f.id IN ($1::uuid, headrace.item_run_id($1::uuid, 0))
ORDER BY f.id <> $1::uuid LIMIT 1
