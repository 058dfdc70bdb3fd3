-- At home: the forwards of a store ($3) that is taken out of use. What led there leads on to where it led from there; what home knows
-- better is left. Index: forwards_pkey.
INSERT INTO headrace.forwards AS f (id, store)
SELECT u.id, u.store FROM unnest($1::uuid[], $2::text[]) AS u (id, store)
ON CONFLICT (id) DO UPDATE SET store = EXCLUDED.store, move_id = NULL WHERE f.store = $3::text
