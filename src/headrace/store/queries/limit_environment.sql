-- How many runs of an environment may execute at once; NULL is any number. Index: environments_pkey.
UPDATE headrace.environments SET concurrency_limit = $2::integer WHERE id = $1::integer
