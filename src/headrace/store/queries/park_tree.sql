-- Of a tree that is to move no run is started any more, for $2 seconds the first time and twice as long each time after, up to $3:
-- what becomes ready of it from the commit on is parked by whoever makes it so. Nothing where it may not be parked again yet.
-- Indexes: moves_pkey, runs_pkey, parkings_pkey.
WITH marked AS (
    UPDATE headrace.moves AS m
    SET parkings = m.parkings + 1, parked_until = headrace.clock()
        + make_interval(secs => least($2::float8 * power(2, least(m.parkings, 30)), $3::float8))
    WHERE m.id = $1::uuid AND m.cut_at IS NULL AND m.parked_until IS NULL
        AND (m.park_after IS NULL OR m.park_after <= headrace.clock())
    RETURNING m.id, m.environment_id, m.unit_id, m.kind
)
INSERT INTO headrace.parkings (environment_id, root_id, move_id)
SELECT t.environment_id, t.top_id, t.id FROM (
    SELECT m.environment_id, m.unit_id AS top_id, m.id FROM marked AS m WHERE m.kind = 'run'
    UNION ALL
    SELECT m.environment_id, r.id, m.id FROM marked AS m CROSS JOIN LATERAL (
        SELECT r.id FROM headrace.runs AS r
        WHERE r.environment_id = m.environment_id AND r.batch_id = m.unit_id
            AND r.id BETWEEN headrace.item_run_id(m.unit_id, 0) AND headrace.item_run_id(m.unit_id, 2147483647)
    ) AS r
    WHERE m.kind = 'batch'
) AS t
ON CONFLICT (environment_id, root_id) DO NOTHING
