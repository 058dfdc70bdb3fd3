-- A session of `headrace dev` whose time is over. Index: none: there are as many rows as folders with a `headrace dev`.
SELECT s.environment_id, s.id FROM headrace.dev_sessions AS s WHERE s.kept_until <= headrace.clock() ORDER BY s.kept_until LIMIT 1
