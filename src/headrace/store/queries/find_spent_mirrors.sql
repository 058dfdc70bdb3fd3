-- A slice of the mirrors of this store, from a place on ($1, $2), and which of them nobody can ask any more and were not written to for
-- $4 seconds. Those are held, as far as nobody else holds them: whoever is about to wait for one does. Indexes: mirrors_pkey,
-- journal_foreign, journal_waiters, runs_pkey, batch_aliases_by_run.
WITH looked AS MATERIALIZED (
    SELECT m.environment_id, m.id, m.kind FROM headrace.mirrors AS m
    WHERE (m.environment_id, m.id) > ($1::integer, $2::uuid)
    ORDER BY m.environment_id, m.id LIMIT $3::integer
),
spent AS MATERIALIZED (
    SELECT s.environment_id, s.id, s.kind FROM looked AS l CROSS JOIN LATERAL (
        SELECT m.environment_id, m.id, m.kind FROM headrace.mirrors AS m
        WHERE m.environment_id = l.environment_id AND m.id = l.id AND m.kind = l.kind
            AND greatest(m.made_at, m.resolved_at) <= headrace.clock() - make_interval(secs => $4::float8)
            AND NOT headrace.mirror_serves(m.environment_id, m.id, m.kind)
        FOR UPDATE SKIP LOCKED
    ) AS s
)
SELECT l.environment_id, l.id, l.kind, s.id IS NOT NULL AS spent
FROM looked AS l LEFT JOIN spent AS s ON s.environment_id = l.environment_id AND s.id = l.id AND s.kind = l.kind
ORDER BY l.environment_id, l.id
