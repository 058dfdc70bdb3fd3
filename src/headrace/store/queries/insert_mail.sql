-- Runs that are to be made in other stores, with ids that those own. Index: outbox_pkey.
INSERT INTO headrace.outbox (store, environment_id, kind, target_id, message, due_at)
SELECT $1::text, $2::integer, 'trigger', $3::uuid, $4::text::jsonb, headrace.clock()
