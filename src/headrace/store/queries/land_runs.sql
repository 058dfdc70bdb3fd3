-- Runs that arrive, in the lanes of their names, which the caller has made. Indexes: lanes_by_name, versions_environment_id_version_key.
INSERT INTO headrace.runs
SELECT r.* FROM unnest($1::text[]) AS u (content)
CROSS JOIN LATERAL (SELECT u.content::jsonb AS content OFFSET 0) AS c
CROSS JOIN LATERAL jsonb_populate_record(NULL::headrace.lanes, c.content -> 'lane') AS n
CROSS JOIN LATERAL jsonb_populate_record(
    NULL::headrace.lanes, CASE WHEN jsonb_typeof(c.content -> 'order_lane') = 'object' THEN c.content -> 'order_lane' END
) AS o
CROSS JOIN LATERAL (
    SELECT jsonb_build_object(
        'lane_id', (
            SELECT l.id FROM headrace.lanes AS l
            WHERE l.environment_id = n.environment_id AND l.task = n.task AND l.queue = n.queue
                AND l.batch_id IS NOT DISTINCT FROM n.batch_id AND l.version IS NOT DISTINCT FROM n.version
                AND l.kind = n.kind AND l.locked = n.locked
        ),
        'order_lane_id', (
            SELECT l.id FROM headrace.lanes AS l
            WHERE l.environment_id = o.environment_id AND l.task = o.task AND l.queue = o.queue
                AND l.batch_id IS NOT DISTINCT FROM o.batch_id AND l.version IS NOT DISTINCT FROM o.version
                AND l.kind = o.kind AND l.locked = o.locked
        ),
        'version_id', (
            SELECT v.id FROM headrace.versions AS v
            WHERE v.environment_id = n.environment_id AND v.version = c.content ->> 'version'
        )
    ) AS found
) AS m
CROSS JOIN LATERAL jsonb_populate_record(NULL::headrace.runs, c.content || m.found) AS r
