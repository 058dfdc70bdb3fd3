-- Runs and tokens of other stores have ended, or are not there (status null): their mirrors say how. Gives back those that did
-- not say so before. In one order, as ends take their runs and tokens. Index: mirrors_pkey.
INSERT INTO headrace.mirrors AS m (environment_id, id, kind, status, task, output, output_type, error, made_at, resolved_at)
SELECT $1::integer, e.id, e.kind, e.status, e.task, e.output, e.output_type, e.error::jsonb, headrace.clock(), headrace.clock()
FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::text[], $8::text[])
    AS e (id, kind, status, task, output, output_type, error)
ORDER BY e.id, e.kind
ON CONFLICT (environment_id, id, kind) DO UPDATE
SET status = EXCLUDED.status, task = EXCLUDED.task, output = EXCLUDED.output, output_type = EXCLUDED.output_type,
    error = EXCLUDED.error, resolved_at = EXCLUDED.resolved_at
WHERE m.resolved_at IS NULL OR (m.status IS NULL AND EXCLUDED.status IS NOT NULL)
RETURNING m.id, m.kind, m.status
