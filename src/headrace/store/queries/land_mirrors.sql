-- How runs and tokens of other trees ended that the tree which arrives was told of; not where they are here themselves. Where
-- somebody here still waits for the mail that says so, he goes on waiting for it. Index: mirrors_pkey.
INSERT INTO headrace.mirrors AS f (environment_id, id, kind, status, task, output, output_type, error, made_at, resolved_at)
SELECT r.environment_id, r.id, r.kind, r.status, r.task, r.output, r.output_type, r.error, r.made_at, r.resolved_at
FROM unnest($1::text[]) AS u (content), jsonb_populate_record(NULL::headrace.mirrors, u.content::jsonb) AS r
ON CONFLICT (environment_id, id, kind) DO UPDATE
SET status = EXCLUDED.status, task = EXCLUDED.task, output = EXCLUDED.output, output_type = EXCLUDED.output_type, error = EXCLUDED.error
WHERE f.status IS NULL
