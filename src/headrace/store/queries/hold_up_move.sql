-- Why a tree could not leave when that was tried. Index: moves_pkey.
UPDATE headrace.moves SET held_up = $2::text, tried_at = headrace.clock() WHERE id = $1::uuid AND cut_at IS NULL
