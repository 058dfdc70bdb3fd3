-- Trees that are to move, and in which some run executes at any time: what is ready of them is parked until they can leave.

-- A run that is parked is QUEUED and ready at no time, so no claim meets it: it costs them nothing.
ALTER TABLE headrace.runs ADD COLUMN parked timestamptz;
COMMENT ON COLUMN headrace.runs.parked IS 'When a run that is parked would be ready. Null for all others.';
CREATE INDEX runs_parked ON headrace.runs (environment_id, id) WHERE parked IS NOT NULL;

-- The tops of trees whose runs are parked: a run, or each item of a batch. What is parked and has no row here goes on (sweeps).
CREATE TABLE headrace.parkings (
    environment_id integer NOT NULL,
    root_id        uuid NOT NULL,
    move_id        uuid NOT NULL,
    PRIMARY KEY (environment_id, root_id)
);
COMMENT ON TABLE headrace.parkings IS 'Tops of trees that are to move, of which no run is started any more.';
CREATE INDEX parkings_by_move ON headrace.parkings (move_id);

ALTER TABLE headrace.moves ADD COLUMN parked_until timestamptz;
ALTER TABLE headrace.moves ADD COLUMN park_after timestamptz;
ALTER TABLE headrace.moves ADD COLUMN parkings integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN headrace.moves.parked_until IS 'Its runs are parked, and let go then where it could not leave. Null: they are not.';
COMMENT ON COLUMN headrace.moves.park_after IS 'They are not parked again before that.';
COMMENT ON COLUMN headrace.moves.parkings IS 'How often they have been parked: each time for longer.';

-- Whether anybody can still ask what a mirror says: a run that has not ended and was told of it, or waits for it; or an item of a
-- batch, which can be listed for as long as the batch is there.
CREATE FUNCTION headrace.mirror_serves(environment_id integer, id uuid, kind text) RETURNS boolean
    LANGUAGE sql STABLE AS $$
    SELECT coalesce((
        SELECT true FROM headrace.journal AS j
        JOIN headrace.runs AS r ON r.environment_id = $1 AND r.id = j.run_id AND r.finished_at IS NULL
        WHERE j.environment_id = $1 AND j.target = $2 AND j.kind::text = $3 AND j.target IS NOT NULL
            AND (NOT j.cascade OR j.kind = 'token')
        LIMIT 1
    ), (
        SELECT true FROM headrace.journal AS j
        JOIN headrace.runs AS r ON r.environment_id = $1 AND r.id = j.run_id AND r.finished_at IS NULL
        WHERE j.environment_id = $1 AND j.target = $2 AND j.kind::text = $3 AND j.target IS NOT NULL AND j.pending
        LIMIT 1
    ), $3 = 'run' AND (
        SELECT true FROM headrace.batch_aliases AS a WHERE a.environment_id = $1 AND a.run_id = $2 LIMIT 1
    ), false)
$$;
