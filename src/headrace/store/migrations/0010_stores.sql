-- Many databases, one system: each database says which store it is, and the home store knows the others.

CREATE TABLE headrace.identity (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    key     text NOT NULL CHECK (key ~ '^[0-9a-z]$'),
    name    text NOT NULL,
    fleet   uuid NOT NULL DEFAULT gen_random_uuid()
);
COMMENT ON TABLE headrace.identity IS 'Which store this database is, and of which installation: one row.';

-- A database is the home store, and by that the only one, until it is told otherwise.
INSERT INTO headrace.identity (key, name) VALUES ('0', 'home');

CREATE TABLE headrace.stores (
    key      text PRIMARY KEY CHECK (key ~ '^[0-9a-z]$'),
    name     text NOT NULL UNIQUE CHECK (name ~ '^[a-z][a-z0-9-]{0,62}$'),
    url      text,
    weight   double precision NOT NULL DEFAULT 1 CHECK (weight >= 0 AND weight <= 1000000),
    state    text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'draining', 'removed')),
    opens_at timestamptz NOT NULL DEFAULT now(),
    added_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE headrace.stores IS 'In the home store: all stores. A key is never given twice, because ids hold it.';
COMMENT ON COLUMN headrace.stores.opens_at IS 'No new root goes there before: by then every process has read this row.';

INSERT INTO headrace.stores (key, name) VALUES ('0', 'home');

-- The last byte of an id is the number of the store that owns it (ids.store_of). These constraints are the guard: a row
-- of another store's can't be written here, whatever code tries it. become_store() writes them anew for another store.
ALTER TABLE headrace.runs ADD CONSTRAINT runs_owned CHECK (get_byte(uuid_send(id), 15) = 0);
ALTER TABLE headrace.batches ADD CONSTRAINT batches_owned CHECK (get_byte(uuid_send(id), 15) = 0);
ALTER TABLE headrace.tokens ADD CONSTRAINT tokens_owned CHECK (get_byte(uuid_send(id), 15) = 0);

CREATE FUNCTION headrace.become_store(store_key text, store_name text, store_fleet uuid) RETURNS void
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
            'ALTER TABLE headrace.%I ADD CONSTRAINT %I CHECK (get_byte(uuid_send(id), 15) = %s)',
            guarded, guarded || '_owned', ordinal
        );
    END LOOP;
    UPDATE headrace.identity SET key = store_key, name = store_name, fleet = store_fleet;
END
$$;
COMMENT ON FUNCTION headrace.become_store IS 'Makes an empty database the store with this key; fails where it holds rows of another one''s.';
