-- Changes a store by name: what is null stays.
UPDATE headrace.stores
SET weight = coalesce($2::float8, weight), state = coalesce($3::text, state), url = coalesce($4::text, url)
WHERE name = $1::text
RETURNING key
