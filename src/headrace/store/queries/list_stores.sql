-- All stores, those too that are no more: 36 rows at most. How many seconds until a new one takes roots, by the clock of
-- the database, because processes' clocks differ. The row of identity as JSON: a home that is about to be migrated may lack a column.
SELECT key, name, url, weight, state, added_at, greatest(extract(epoch FROM opens_at - now()), 0)::float8 AS opens_in,
    coalesce(key = (SELECT to_jsonb(i) ->> 'legacy' FROM headrace.identity AS i), false) AS legacy
FROM headrace.stores
ORDER BY added_at, key
