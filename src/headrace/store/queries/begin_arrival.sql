-- Whether a tree is still to arrive here: whoever is told so writes it and commits, all others wait for that. Index: arrivals_pkey.
INSERT INTO headrace.arrivals (move_id, at) VALUES ($1::uuid, headrace.clock()) ON CONFLICT (move_id) DO NOTHING RETURNING move_id
