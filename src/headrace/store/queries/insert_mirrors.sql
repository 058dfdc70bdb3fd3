-- Mirrors of runs or tokens of other stores that have not ended yet. What is there already is further on, and stays; but what
-- was missing in its store, and is not any more, is waited for. Index: mirrors_pkey.
INSERT INTO headrace.mirrors AS m (environment_id, id, kind, made_at)
SELECT $1::integer, w.id, $2::text, headrace.clock() FROM unnest($3::uuid[]) AS w (id) ORDER BY w.id
ON CONFLICT (environment_id, id, kind) DO UPDATE SET resolved_at = NULL
WHERE m.resolved_at IS NOT NULL AND m.status IS NULL
