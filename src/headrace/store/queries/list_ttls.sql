-- How long runs of each environment may wait for their start.
SELECT slug, default_ttl, max_ttl FROM headrace.environments ORDER BY id
