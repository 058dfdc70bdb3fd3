-- Cancels and replays of many runs at once, lists of runs, sessions of `headrace dev`.

CREATE TYPE headrace.bulk_kind AS ENUM ('CANCEL', 'REPLAY');
CREATE TYPE headrace.bulk_status AS ENUM ('PENDING', 'COMPLETED', 'ABORTED');

-- A bulk action first writes down its members, then deals with them, both a bounded part a transaction.
CREATE TABLE headrace.bulk_actions (
    environment_id integer NOT NULL REFERENCES headrace.environments (id),
    id uuid NOT NULL,
    kind headrace.bulk_kind NOT NULL,
    status headrace.bulk_status NOT NULL DEFAULT 'PENDING',
    name text,
    filter jsonb,                        -- as it was frozen; NULL: its runs were named one by one
    cursor uuid,                         -- the members newer than this run are written down
    selected_at timestamptz,             -- all members are
    total integer NOT NULL DEFAULT 0,    -- members
    succeeded integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    completed_at timestamptz,
    PRIMARY KEY (environment_id, id),
    CHECK (succeeded + failed <= total),
    CHECK ((status = 'PENDING') = (completed_at IS NULL)),
    CHECK (status <> 'COMPLETED' OR (selected_at IS NOT NULL AND succeeded + failed = total))
) WITH (fillfactor = 50);
-- serves the sweep: which actions are under way, the oldest first
CREATE INDEX bulk_actions_pending ON headrace.bulk_actions (created_at, id) WHERE status = 'PENDING';

-- A run that an action is for. It is dealt with once: what is done and its row here are one transaction.
CREATE TABLE headrace.bulk_members (
    environment_id integer NOT NULL,
    action_id uuid NOT NULL,
    run_id uuid NOT NULL,
    succeeded boolean,    -- NULL: its turn has not come
    result_id uuid,       -- the run that was canceled, or that was made
    error text,
    PRIMARY KEY (environment_id, action_id, run_id)
) WITH (fillfactor = 80);
-- serves the sweep: whose turn is next
CREATE INDEX bulk_members_open ON headrace.bulk_members (environment_id, action_id, run_id) WHERE succeeded IS NULL;
-- serves lists of the runs that an action canceled or made
CREATE INDEX bulk_members_results ON headrace.bulk_members (environment_id, action_id, result_id) WHERE result_id IS NOT NULL;

-- serves lists of runs that ended badly, and by error. A run that goes well is never in it.
CREATE INDEX runs_unsuccessful ON headrace.runs (environment_id, id)
WHERE status IN ('CANCELED', 'FAILED', 'CRASHED', 'SYSTEM_FAILURE', 'EXPIRED', 'TIMED_OUT');
-- serves lists by idempotency key, also of keys that hold no more. Keys can be longer than an index takes: it is of their hash.
CREATE INDEX runs_by_key ON headrace.runs (environment_id, hashtextextended(idempotency_key, 0), id) WHERE idempotency_key IS NOT NULL;

-- `headrace dev` in one folder, whatever its processes: it is there until kept_until, which they move on while they live.
CREATE TABLE headrace.dev_sessions (
    environment_id integer NOT NULL REFERENCES headrace.environments (id),
    id uuid NOT NULL,
    kept_until timestamptz NOT NULL,
    PRIMARY KEY (environment_id, id)
) WITH (fillfactor = 50);

-- A run that a worker of a session claimed last: its own, unless another worker has claimed it since (then the run's
-- attempt is a later one).
CREATE TABLE headrace.dev_claims (
    environment_id integer NOT NULL,
    run_id uuid NOT NULL,
    session_id uuid NOT NULL,
    attempt integer NOT NULL,
    PRIMARY KEY (environment_id, run_id)
);
CREATE INDEX dev_claims_by_session ON headrace.dev_claims (environment_id, session_id, run_id);

-- serves lists by time: a batch that was open at a time may have older runs of that time than others
CREATE INDEX batches_by_seal ON headrace.batches (environment_id, sealed_at, id);
