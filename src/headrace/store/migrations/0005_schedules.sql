-- Schedules: when runs of a task are made, and the tick that comes next.

-- A tick is a nominal moment of the pattern. What is due is found by next_tick; moving it on and making the run are one
-- transaction, so a tick has one run whatever dies in between.
CREATE TABLE headrace.schedules (
    environment_id integer NOT NULL REFERENCES headrace.environments (id),
    id uuid NOT NULL,
    declared boolean NOT NULL,     -- in the code of its task, and so by workers; others are made over the API
    task text NOT NULL,
    deduplication_key text,        -- of those made over the API
    external_id text,
    pattern text NOT NULL,
    timezone text NOT NULL,
    catch_up text NOT NULL CHECK (catch_up IN ('skip', 'one', 'all')),
    options jsonb,                 -- of its runs; NULL: nothing is said
    active boolean NOT NULL DEFAULT true,
    next_tick timestamptz,         -- NULL: never again
    last_tick timestamptz,         -- the latest tick that made a run
    last_run_id uuid,
    fault text,                    -- why the latest tick made none, where that is not as it should be
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (environment_id, id),
    CHECK (declared = (deduplication_key IS NULL))
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX schedules_by_key ON headrace.schedules (environment_id, deduplication_key) WHERE NOT declared;
-- serves workers that register: what their tasks declare (the id of such a schedule follows from the task)
CREATE INDEX schedules_declared ON headrace.schedules (environment_id, task) WHERE declared;
-- serves the sweep: what is due, and when the next tick is
CREATE INDEX schedules_due ON headrace.schedules (next_tick) WHERE active;

-- What each version of the code of a task declares; a task without a row declares nothing. That of the current version is the
-- task's schedule.
CREATE TABLE headrace.declarations (
    environment_id integer NOT NULL,
    task text NOT NULL,
    version text NOT NULL,
    pattern text NOT NULL,
    timezone text NOT NULL,
    catch_up text NOT NULL,
    options jsonb,
    PRIMARY KEY (environment_id, task, version)
);
