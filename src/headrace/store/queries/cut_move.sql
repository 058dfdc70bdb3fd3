-- A tree has left: from the commit on the other store owns it. Of its ids nothing is needed any more. Indexes: moves_pkey,
-- move_members_pkey.
WITH gone AS (DELETE FROM headrace.move_members AS m WHERE m.move_id = $1::uuid)
UPDATE headrace.moves SET cut_at = headrace.clock(), held_up = NULL WHERE id = $1::uuid
