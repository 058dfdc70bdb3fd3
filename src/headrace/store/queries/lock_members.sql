-- Locks a tree, waiting for nobody: whoever writes to it at this moment may want what is locked here. How many there are to lock,
-- how many are, and how many runs execute. Indexes: move_members_pkey, runs_pkey, batches_pkey, tokens_pkey.
WITH runs AS MATERIALIZED (
    SELECT r.id, r.status FROM headrace.move_members AS m
    JOIN headrace.runs AS r ON r.environment_id = $2::integer AND r.id = m.id
    WHERE m.move_id = $1::uuid AND m.kind = 'run'
    FOR UPDATE OF r SKIP LOCKED
),
batches AS MATERIALIZED (
    SELECT b.id FROM headrace.move_members AS m
    JOIN headrace.batches AS b ON b.environment_id = $2::integer AND b.id = m.id
    WHERE m.move_id = $1::uuid AND m.kind = 'batch'
    FOR UPDATE OF b SKIP LOCKED
),
tokens AS MATERIALIZED (
    SELECT t.id FROM headrace.move_members AS m
    JOIN headrace.tokens AS t ON t.environment_id = $2::integer AND t.id = m.id
    WHERE m.move_id = $1::uuid AND m.kind = 'token'
    FOR UPDATE OF t SKIP LOCKED
)
SELECT (SELECT count(*) FROM headrace.move_members AS m WHERE m.move_id = $1::uuid) AS wanted,
    (SELECT count(*) FROM runs) + (SELECT count(*) FROM batches) + (SELECT count(*) FROM tokens) AS held,
    (SELECT count(*) FROM runs AS r WHERE r.status = 'EXECUTING') AS executing
