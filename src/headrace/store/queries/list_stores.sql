-- All stores, those too that are no more: 36 rows at most. How many seconds until a new one takes roots, by the clock of
-- the database, because processes' clocks differ.
SELECT key, name, url, weight, state, added_at, greatest(extract(epoch FROM opens_at - now()), 0)::float8 AS opens_in
FROM headrace.stores
ORDER BY added_at, key
