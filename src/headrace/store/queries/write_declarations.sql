-- What a version of the code declares. What stands there already is not written again. Index: declarations_pkey.
INSERT INTO headrace.declarations AS o (environment_id, task, version, pattern, timezone, catch_up, options)
SELECT $1::integer, d.task, $2::text, d.pattern, d.timezone, d.catch_up, d.options::jsonb
FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) AS d (task, pattern, timezone, catch_up, options)
ORDER BY d.task
ON CONFLICT (environment_id, task, version) DO UPDATE
SET pattern = EXCLUDED.pattern, timezone = EXCLUDED.timezone, catch_up = EXCLUDED.catch_up, options = EXCLUDED.options
WHERE (o.pattern, o.timezone, o.catch_up, o.options)
    IS DISTINCT FROM (EXCLUDED.pattern, EXCLUDED.timezone, EXCLUDED.catch_up, EXCLUDED.options)
