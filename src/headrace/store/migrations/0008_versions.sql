-- Versions of the code: which are known, which tasks each has, and which one takes a task's new runs.

-- What workers have said that they run.
CREATE TABLE headrace.versions (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    environment_id integer NOT NULL REFERENCES headrace.environments (id),
    version text NOT NULL,
    first_seen_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL, -- when a worker of it registered last
    promoted_at timestamptz,           -- when it last became the current one of any task
    UNIQUE (environment_id, version)
);
CREATE TABLE headrace.version_tasks (
    version_id integer NOT NULL REFERENCES headrace.versions (id) ON DELETE CASCADE,
    task text NOT NULL,
    first_seen_at timestamptz NOT NULL,
    PRIMARY KEY (version_id, task)
);

-- Its workers take the new runs; those of other versions do where none of it lives.
ALTER TABLE headrace.tasks ADD COLUMN current_version text;

-- What a worker can claim; NULL: anything. Nobody waits for a worker that would never come to a lane.
ALTER TABLE headrace.workers
    ADD COLUMN tasks text[],
    ADD COLUMN queues text[];

ALTER TABLE headrace.runs ADD COLUMN version_id integer; -- of the worker that claimed it last

-- A lane is pending while no worker was ever there that could take what lies in it: its task is unknown, or the version that
-- it is locked to, or that version has no such task. It is found out when it is read, so nothing has to be moved when one comes.
CREATE VIEW headrace.lane_states AS
SELECT l.id, l.environment_id, l.task, l.queue, l.version, l.locked,
    CASE WHEN l.locked THEN NOT EXISTS (
        SELECT FROM headrace.versions AS v JOIN headrace.version_tasks AS t ON t.version_id = v.id
        WHERE v.environment_id = l.environment_id AND v.version = l.version AND t.task = l.task
    ) ELSE NOT EXISTS (
        SELECT FROM headrace.tasks AS t WHERE t.environment_id = l.environment_id AND t.id = l.task
    ) END AS pending
FROM headrace.lanes AS l;
