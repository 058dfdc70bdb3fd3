-- A slice of what this store waits for elsewhere and was not told of for $4 seconds, in order. Index: mirrors_open.
SELECT m.environment_id, m.id, m.kind FROM headrace.mirrors AS m
WHERE m.resolved_at IS NULL AND (m.environment_id, m.id) > ($1::integer, $2::uuid)
    AND m.made_at <= headrace.clock() - make_interval(secs => $4::float8)
ORDER BY m.environment_id, m.id LIMIT $3::integer
