-- Many stores: a bulk action has a part in each store that has runs it is for. Its id there differs in the store alone.

-- At home, beside an action, of the parts in other stores. A row is there before its part is, so that a store that is away when
-- the action is asked for gets its part when it is back. The counts are what was seen when the part was looked at last.
CREATE TABLE headrace.bulk_parts (
    environment_id integer NOT NULL,
    action_id uuid NOT NULL,
    store text NOT NULL CHECK (store ~ '^[1-9a-z]$'),
    run_ids uuid[],    -- that were named, of this store; NULL: those that the action's filter finds there
    status headrace.bulk_status NOT NULL DEFAULT 'PENDING',
    selected boolean NOT NULL DEFAULT false,
    total integer NOT NULL DEFAULT 0,
    succeeded integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    PRIMARY KEY (environment_id, action_id, store),
    FOREIGN KEY (environment_id, action_id) REFERENCES headrace.bulk_actions (environment_id, id)
) WITH (fillfactor = 50);
COMMENT ON TABLE headrace.bulk_parts IS 'In the home store: the parts that a bulk action has in others. It is over when all are.';
-- serves the sweep: which parts are to be made, looked at or aborted
CREATE INDEX bulk_parts_open ON headrace.bulk_parts (environment_id, action_id) WHERE status = 'PENDING';
