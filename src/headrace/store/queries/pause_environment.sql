-- Pauses an environment ($2), or takes that back; one that is paused keeps the moment. Index: environments_pkey.
UPDATE headrace.environments SET paused_at = CASE WHEN $2::boolean THEN coalesce(paused_at, headrace.clock()) END
WHERE id = $1::integer
