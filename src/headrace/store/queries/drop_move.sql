-- A tree that has not left stays, or is not there. Index: moves_pkey.
DELETE FROM headrace.moves WHERE id = $1::uuid AND cut_at IS NULL
