-- A tree has left: from the commit on the other store owns it. Of its ids nothing is needed any more, and nothing of it is parked.
-- Indexes: moves_pkey, move_members_pkey, parkings_by_move.
WITH gone AS (DELETE FROM headrace.move_members AS m WHERE m.move_id = $1::uuid),
freed AS (DELETE FROM headrace.parkings AS p WHERE p.move_id = $1::uuid)
UPDATE headrace.moves SET cut_at = headrace.clock(), held_up = NULL, parked_until = NULL WHERE id = $1::uuid
