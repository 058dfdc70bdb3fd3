-- A tree is to go to another store ($4). Asked again while it has not left, it goes where was asked last. Index: moves_wanted.
INSERT INTO headrace.moves AS m (id, environment_id, unit_id, kind, store, asked_at)
VALUES (gen_random_uuid(), $1::integer, $2::uuid, $3::text, $4::text, headrace.clock())
ON CONFLICT (environment_id, unit_id, kind) WHERE cut_at IS NULL DO UPDATE SET store = EXCLUDED.store
RETURNING m.id
