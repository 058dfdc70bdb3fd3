-- Queues with limits, keys of concurrency and of order, times to live.

-- What a queue may do at once. A queue has a row only where somebody said something of it. What runs is counted from the
-- runs that are executing, so there is no counter to leak.
CREATE TABLE headrace.queues (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    environment_id integer NOT NULL REFERENCES headrace.environments (id),
    name text NOT NULL,
    declared_limit integer CHECK (declared_limit >= 0), -- runs at once, by the code or the API; NULL: any number
    override_limit integer CHECK (override_limit >= 0), -- by an operator, over the declared one
    override_percent float8 CHECK (override_percent > 0 AND override_percent <= 100), -- of the environment's limit
    overridden_at timestamptz,
    key_limit integer CHECK (key_limit > 0),  -- runs at once of one concurrency key; NULL: each key may have the queue's limit
    rate_limit integer CHECK (rate_limit > 0), -- starts in rate_period seconds
    rate_period float8 CHECK (rate_period > 0),
    rate_by_key boolean NOT NULL DEFAULT false, -- the rate is that of each concurrency key, and not of all together
    keeps_slots boolean NOT NULL DEFAULT false, -- a run that waits stays in memory, and counts
    paused_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    UNIQUE (environment_id, name),
    CHECK ((rate_limit IS NULL) = (rate_period IS NULL))
);

-- Until when the starts of a queue, or of a key of it, are used up (the generic cell rate algorithm keeps one moment).
CREATE TABLE headrace.queue_rates (
    queue_id integer NOT NULL REFERENCES headrace.queues (id) ON DELETE CASCADE,
    key text COLLATE "C" NOT NULL,   -- '' where the rate is of all keys together
    used_until timestamptz NOT NULL,
    PRIMARY KEY (queue_id, key)
);

ALTER TABLE headrace.environments
    ADD COLUMN concurrency_limit integer CHECK (concurrency_limit >= 0), -- runs at once; NULL: any number
    ADD COLUMN default_ttl float8 CHECK (default_ttl > 0),   -- seconds that a run may wait for its start, where it says nothing
    ADD COLUMN max_ttl float8 CHECK (max_ttl > 0),
    ADD COLUMN paused_at timestamptz;

-- plain: by age. keyed: fair between the concurrency keys. ordered: one run of an order key at a time, in the order in
-- which they came.
CREATE TYPE headrace.lane_kind AS ENUM ('plain', 'keyed', 'ordered');

ALTER TABLE headrace.lanes
    ADD COLUMN kind headrace.lane_kind NOT NULL DEFAULT 'plain',
    ADD COLUMN locked boolean NOT NULL DEFAULT false; -- its version was asked for: no other may take its runs, ever
DROP INDEX headrace.lanes_by_name;
CREATE UNIQUE INDEX lanes_by_name ON headrace.lanes (environment_id, task, queue, batch_id, version, kind, locked) NULLS NOT DISTINCT;

ALTER TABLE headrace.tasks
    ADD COLUMN skips_failed boolean NOT NULL DEFAULT false, -- a run in back-off does not hold up the others of its order key
    ADD COLUMN coalesces integer NOT NULL DEFAULT 1 CHECK (coalesces > 0); -- runs of one order key that one call may take

ALTER TABLE headrace.runs
    ADD COLUMN concurrency_key text COLLATE "C",
    ADD COLUMN order_key text COLLATE "C",
    ADD COLUMN order_number bigint,       -- its place among the runs of its order key
    ADD COLUMN order_lane_id integer,     -- the lane in which it was made: versions may move it, its line stays
    ADD COLUMN counted_in integer,        -- the queue (0: one without a row) whose limits it was claimed under
    ADD COLUMN expires_at timestamptz,    -- until when it may start for the first time
    ADD COLUMN schedule_id uuid,
    ADD COLUMN replayed_from uuid,
    ADD CHECK (concurrency_key IS NULL OR order_key IS NULL),
    ADD CHECK ((order_key IS NULL) = (order_number IS NULL) AND (order_key IS NULL) = (order_lane_id IS NULL));

-- The numbers of one key are in the order in which their transactions commit: who takes one holds the key's lock.
CREATE SEQUENCE headrace.run_order AS bigint;

-- serves claims of keyed lanes: the next key, and the head of a key, whatever lies behind it
CREATE INDEX runs_keyed ON headrace.runs (lane_id, concurrency_key, ready_at, id)
WHERE status = 'QUEUED' AND concurrency_key IS NOT NULL;
-- serves claims of ordered lanes: the next key, and the run of it that is due
CREATE INDEX runs_ordered ON headrace.runs (order_lane_id, order_key, order_number)
WHERE order_key IS NOT NULL AND finished_at IS NULL;
-- serves the limits: what is executing in an environment, a queue, a key of it; and where a failed head of an order key is
-- skipped, whether one of the key is under way
CREATE INDEX runs_counted ON headrace.runs (environment_id, counted_in, concurrency_key)
WHERE status = 'EXECUTING' AND counted_in IS NOT NULL;
CREATE INDEX runs_in_order ON headrace.runs (order_lane_id, order_key)
WHERE order_key IS NOT NULL AND status IN ('EXECUTING', 'WAITING');
-- serves the sweep of runs that were not started in time
CREATE INDEX runs_expiring ON headrace.runs (expires_at) WHERE status = 'QUEUED' AND expires_at IS NOT NULL;
-- serves lists of a schedule's runs
CREATE INDEX runs_by_schedule ON headrace.runs (environment_id, schedule_id, id) WHERE schedule_id IS NOT NULL;

-- How many runs of a queue may execute: the operator's word goes first, and no queue may do more than its environment.
CREATE FUNCTION headrace.queue_limit(q headrace.queues, environment_limit integer) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN least(
    CASE
        WHEN q.override_limit IS NOT NULL THEN q.override_limit
        WHEN q.override_percent IS NOT NULL AND environment_limit IS NOT NULL
        THEN greatest(floor(environment_limit * q.override_percent / 100)::integer, 1)
        ELSE q.declared_limit
    END,
    environment_limit
);

-- Until when a run may start: its own word, else its environment's, and no more than that allows. 0 is no limit of its own.
-- It counts from when the run could start.
CREATE FUNCTION headrace.run_expiry(due timestamptz, ttl float8, default_ttl float8, max_ttl float8) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN due + make_interval(secs => least(nullif(coalesce(ttl, default_ttl), 0), max_ttl));
