-- Moves: a tree of runs goes to another store, and its ids lead there for ever. How is told in engine/moves.py.

-- What was asked for and is not over. Once it is cut, the tree is nowhere but in departures, and the target owns it.
CREATE TABLE headrace.moves (
    id             uuid PRIMARY KEY,
    environment_id integer NOT NULL,
    unit_id        uuid NOT NULL,
    kind           text NOT NULL CHECK (kind IN ('run', 'batch', 'token')),
    store          text NOT NULL,
    asked_at       timestamptz NOT NULL,
    tried_at       timestamptz,
    held_up        text,
    cut_at         timestamptz
);
COMMENT ON TABLE headrace.moves IS 'Trees that are to leave this store, or have left it and have not arrived.';
COMMENT ON COLUMN headrace.moves.store IS 'The key of the store that they go to.';
COMMENT ON COLUMN headrace.moves.held_up IS 'Why it could not be cut when that was tried last.';
CREATE UNIQUE INDEX moves_wanted ON headrace.moves (environment_id, unit_id, kind) WHERE cut_at IS NULL;

-- The ids of a tree while it is cut, and then its rows until they have arrived.
CREATE TABLE headrace.move_members (
    move_id uuid NOT NULL,
    kind    text NOT NULL,
    id      uuid NOT NULL,
    PRIMARY KEY (move_id, kind, id)
);
CREATE TABLE headrace.departures (
    move_id uuid NOT NULL,
    place   bigint GENERATED ALWAYS AS IDENTITY,
    kind    text NOT NULL,
    content jsonb NOT NULL,
    PRIMARY KEY (move_id, place)
);
COMMENT ON TABLE headrace.departures IS 'The rows of trees that have left this store and have not arrived.';

-- In the store that a tree goes to: its rows were written, so nobody writes them again.
CREATE TABLE headrace.arrivals (
    move_id uuid PRIMARY KEY,
    at      timestamptz NOT NULL
);

-- Where what has left this store is, or was when it left: a batch's is that of its items. Kept for ever.
CREATE TABLE headrace.forwards (
    id      uuid PRIMARY KEY,
    store   text NOT NULL,
    move_id uuid
);
COMMENT ON COLUMN headrace.forwards.store IS 'The key of a store; this one''s own where the thing has come back.';

-- What came from another store has an id of that one's. The guard lets it in, and nothing else.
ALTER TABLE headrace.runs ADD COLUMN moved boolean;
ALTER TABLE headrace.batches ADD COLUMN moved boolean;
ALTER TABLE headrace.tokens ADD COLUMN moved boolean;

CREATE OR REPLACE FUNCTION headrace.become_store(store_key text, store_name text, store_fleet uuid) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    guarded text;
    ordinal integer := position(store_key IN '0123456789abcdefghijklmnopqrstuvwxyz') - 1;
BEGIN
    IF ordinal < 0 OR length(store_key) <> 1 THEN
        RAISE EXCEPTION 'a store''s key is one of 0-9 and a-z, not %', store_key;
    END IF;
    FOREACH guarded IN ARRAY ARRAY['runs', 'batches', 'tokens'] LOOP
        EXECUTE format('ALTER TABLE headrace.%I DROP CONSTRAINT IF EXISTS %I', guarded, guarded || '_owned');
        EXECUTE format(
            'ALTER TABLE headrace.%I ADD CONSTRAINT %I CHECK (get_byte(uuid_send(id), 15) = %s OR moved IS TRUE)',
            guarded, guarded || '_owned', ordinal
        );
    END LOOP;
    UPDATE headrace.identity SET key = store_key, name = store_name, fleet = store_fleet;
END
$$;
SELECT headrace.become_store(key, name, fleet) FROM headrace.identity;

-- serve the moves: the runs, batches and tokens of a tree; a run that is nobody's child is in none of them
CREATE INDEX runs_by_root ON headrace.runs (environment_id, root_run_id) WHERE root_run_id IS NOT NULL;
CREATE INDEX batches_by_root ON headrace.batches (environment_id, root_run_id) WHERE root_run_id IS NOT NULL;
CREATE INDEX tokens_by_run ON headrace.tokens (environment_id, run_id) WHERE run_id IS NOT NULL;
-- serve the moves: who was told the end of something that is perhaps not in his tree
CREATE INDEX journal_foreign ON headrace.journal (environment_id, target)
WHERE target IS NOT NULL AND (NOT cascade OR kind = 'token');
CREATE INDEX batch_aliases_by_run ON headrace.batch_aliases (environment_id, run_id);
