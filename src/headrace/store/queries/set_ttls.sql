-- How long runs of an environment may wait for their start. Index: environments_slug_key.
UPDATE headrace.environments SET default_ttl = $2::float8, max_ttl = $3::float8 WHERE slug = $1::text RETURNING id
