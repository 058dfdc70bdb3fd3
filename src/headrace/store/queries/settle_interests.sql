-- A slice of what other stores want to be told, from a place on ($1, $2, $3): where it has ended, or is not here, they are told and the
-- note of it goes. Who ends something does this himself, so nothing should ever be found. Stores that are no more ($5) owned nothing at
-- their end, so nobody there waits: theirs go untold. It never returns nothing: how many were
-- looked at and told, and the last. Indexes: interests_pkey, runs_pkey, tokens_pkey.
WITH looked AS MATERIALIZED (
    SELECT i.environment_id, i.target_id, i.store FROM headrace.interests AS i
    WHERE (i.environment_id, i.target_id, i.store) > ($1::integer, $2::uuid, $3::text)
    ORDER BY i.environment_id, i.target_id, i.store LIMIT $4::integer
),
ended AS MATERIALIZED (
    SELECT l.environment_id, l.target_id, l.store FROM looked AS l
    WHERE l.store = ANY($5::text[]) OR NOT coalesce((
        SELECT r.finished_at IS NULL FROM headrace.runs AS r
        WHERE r.environment_id = l.environment_id AND r.id = l.target_id LIMIT 1
    ), (
        SELECT t.status = 'WAITING' FROM headrace.tokens AS t
        WHERE t.environment_id = l.environment_id AND t.id = l.target_id LIMIT 1
    ), false)
),
told AS (
    DELETE FROM headrace.interests AS i
    USING (SELECT e.* FROM ended AS e OFFSET 0) AS e
    WHERE i.environment_id = e.environment_id AND i.target_id = e.target_id AND i.store = e.store
    RETURNING i.environment_id, i.target_id, i.store
),
sent AS (
    INSERT INTO headrace.outbox (store, environment_id, kind, target_id, due_at)
    SELECT t.store, t.environment_id, 'end', t.target_id, headrace.clock() FROM told AS t
    WHERE t.store <> ALL($5::text[])
    RETURNING id
)
SELECT l.environment_id, l.target_id, l.store, n.looked, n.told
FROM (SELECT (SELECT count(*)::integer FROM looked) AS looked, (SELECT count(*)::integer FROM sent) AS told) AS n
LEFT JOIN LATERAL (
    SELECT l.* FROM looked AS l ORDER BY l.environment_id DESC, l.target_id DESC, l.store DESC LIMIT 1
) AS l ON true
