-- Waiting: the journal of a run's durable points, which also says who waits for what; tokens; versions of code.

-- A resume is a claim, and each claim takes a new number, by which writes are fenced: what a user calls the attempt is
-- attempt - resumes.
ALTER TABLE headrace.runs
    ALTER COLUMN attempt TYPE integer,
    ADD COLUMN resumes integer NOT NULL DEFAULT 0,
    ADD COLUMN root_run_id uuid,                  -- of a child: the run at the top of its tree
    ADD COLUMN depth smallint NOT NULL DEFAULT 0, -- runs above it
    ADD COLUMN metadata jsonb;                    -- what its code has made of options -> metadata; NULL: nothing yet
-- serves the audit of waiting runs, and asks of a version's lane whether anything lies in it
CREATE INDEX runs_waiting ON headrace.runs (lane_id, id) WHERE status = 'WAITING';

ALTER TABLE headrace.batches
    ADD COLUMN root_run_id uuid,                  -- of its items
    ADD COLUMN depth smallint NOT NULL DEFAULT 0, -- of its items
    ADD COLUMN watched boolean NOT NULL DEFAULT false,   -- a run waits for its end
    ADD COLUMN followed boolean NOT NULL DEFAULT false;  -- a run waits for some more of its items to end

-- A lane with a version holds runs whose journal was begun by that version of the code: other workers leave it alone
-- while a worker of the version lives.
ALTER TABLE headrace.lanes ADD COLUMN version text;
DROP INDEX headrace.lanes_by_name;
CREATE UNIQUE INDEX lanes_by_name ON headrace.lanes (environment_id, task, queue, batch_id, version) NULLS NOT DISTINCT;
CREATE INDEX lanes_by_version ON headrace.lanes (environment_id, version) WHERE version IS NOT NULL;

ALTER TABLE headrace.workers ADD COLUMN version text NOT NULL DEFAULT '';
CREATE INDEX workers_by_version ON headrace.workers (environment_id, version) WHERE ended_at IS NULL;

-- run, batch, token: waits for the end of its target. progress: waits for more items of a batch to end. time: waits for
-- due_at. step: code that ran once, or waits for its next try. effect: something done once that nothing waits for.
CREATE TYPE headrace.point_kind AS ENUM ('run', 'batch', 'progress', 'time', 'token', 'step', 'effect');

-- What happened at the durable points of a run's code. A pending row is a wait: run_id waits for target, or for due_at.
-- The outcome of a run, batch or token is not copied: it stands in its own row, and is final there.
CREATE TABLE headrace.journal (
    environment_id integer NOT NULL,
    run_id uuid NOT NULL,
    point text NOT NULL,          -- its name: what it does, its key, a counter where both are repeated
    kind headrace.point_kind NOT NULL,
    pending boolean NOT NULL,
    made integer NOT NULL,        -- made and seen are moments of one logical clock of the run:
    seen integer,                 -- when its code was told the outcome; NULL: perhaps it was not
    target uuid,
    due_at timestamptz,
    failures smallint NOT NULL DEFAULT 0, -- of a step: tries that failed
    succeeded boolean,            -- of a step or an effect that is over: how
    value bytea,
    value_type text,              -- NULL is application/json
    error jsonb,
    cascade boolean NOT NULL DEFAULT true,    -- whether canceling the run cancels the target
    canceling boolean NOT NULL DEFAULT false, -- the run was canceled, and the target is being canceled
    created_at timestamptz NOT NULL,
    done_at timestamptz,
    PRIMARY KEY (environment_id, run_id, point)
) WITH (fillfactor = 90);
-- serves the completion of a target: who waits for it
CREATE INDEX journal_waiters ON headrace.journal (environment_id, target) WHERE pending AND target IS NOT NULL;
-- serves the sweep of deadlines
CREATE INDEX journal_due ON headrace.journal (due_at) WHERE pending AND due_at IS NOT NULL;
-- serves the sweep that carries a cancel down the tree
CREATE INDEX journal_canceling ON headrace.journal (environment_id, run_id) WHERE canceling;

CREATE TYPE headrace.token_status AS ENUM ('WAITING', 'COMPLETED', 'TIMED_OUT');

CREATE TABLE headrace.tokens (
    environment_id integer NOT NULL,
    id uuid NOT NULL,
    status headrace.token_status NOT NULL DEFAULT 'WAITING',
    run_id uuid,                  -- of the run that made it, if one did
    tags text[] NOT NULL DEFAULT '{}',
    idempotency_key text,
    idempotency_key_expires_at timestamptz,
    timeout_at timestamptz,
    output bytea,
    output_type text,             -- NULL is application/json
    created_at timestamptz NOT NULL,
    completed_at timestamptz,
    PRIMARY KEY (environment_id, id),
    CHECK ((status = 'WAITING') = (completed_at IS NULL))
);
-- serves the sweep of timeouts
CREATE INDEX tokens_due ON headrace.tokens (timeout_at) WHERE status = 'WAITING' AND timeout_at IS NOT NULL;

-- A point with its outcome, wherever that stands. LIMIT 1 keeps the planner to a probe a point: as plain joins it would
-- hash whole tables.
CREATE VIEW headrace.point_outcomes AS
SELECT j.environment_id, j.run_id, j.point, j.kind, j.pending, j.made, j.seen, j.target, j.failures, j.succeeded,
    extract(epoch FROM j.due_at - headrace.clock())::float8 AS due_in,
    CASE j.kind WHEN 'run' THEN c.status::text WHEN 'batch' THEN b.status::text WHEN 'progress' THEN b.status::text
        WHEN 'token' THEN t.status::text END AS status,
    CASE j.kind WHEN 'run' THEN c.output WHEN 'token' THEN t.output ELSE j.value END AS value,
    CASE j.kind WHEN 'run' THEN c.output_type WHEN 'token' THEN t.output_type ELSE j.value_type END AS value_type,
    CASE j.kind WHEN 'run' THEN c.error WHEN 'batch' THEN b.error ELSE j.error END::text AS error,
    b.run_count
FROM headrace.journal AS j
LEFT JOIN LATERAL (
    SELECT r.status, r.output, r.output_type, r.error FROM headrace.runs AS r
    WHERE j.kind = 'run' AND NOT j.pending AND r.environment_id = j.environment_id AND r.id = j.target LIMIT 1
) AS c ON true
LEFT JOIN LATERAL (
    SELECT k.status, k.run_count, k.error FROM headrace.batches AS k
    WHERE j.kind IN ('batch', 'progress') AND k.environment_id = j.environment_id AND k.id = j.target LIMIT 1
) AS b ON true
LEFT JOIN LATERAL (
    SELECT o.status, o.output, o.output_type FROM headrace.tokens AS o
    WHERE j.kind = 'token' AND NOT j.pending AND o.environment_id = j.environment_id AND o.id = j.target LIMIT 1
) AS t ON true;
