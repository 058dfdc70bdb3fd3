-- Waits across stores: a run here for a token or run of another store, and what a store owes to others.

-- Here, for what is in another store and waited for here: how it stands, as far as this store was told.
CREATE TABLE headrace.mirrors (
    environment_id integer NOT NULL,
    id             uuid NOT NULL,
    kind           text NOT NULL CHECK (kind IN ('run', 'token')),
    status         text,
    task           text,
    output         bytea,
    output_type    text,
    error          jsonb,
    made_at        timestamptz NOT NULL,
    resolved_at    timestamptz,
    PRIMARY KEY (environment_id, id, kind)
);
COMMENT ON TABLE headrace.mirrors IS 'What stands here for a run or token of another store that is waited for here.';
COMMENT ON COLUMN headrace.mirrors.status IS 'How it ended. Null while it has not, and for ever where it is not in its store.';
CREATE INDEX mirrors_open ON headrace.mirrors (environment_id, id, kind) WHERE resolved_at IS NULL;

-- Here, for what is in this store and waited for in another one: who wants to be told.
CREATE TABLE headrace.interests (
    environment_id integer NOT NULL,
    target_id      uuid NOT NULL,
    store          text NOT NULL,
    PRIMARY KEY (environment_id, target_id, store)
);
COMMENT ON TABLE headrace.interests IS 'Other stores that wait for a run or token of this one. Its end moves them to the outbox.';

-- What has happened here and another store is to be told: an end, or a run that a schedule orders there.
CREATE TABLE headrace.outbox (
    id             bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    store          text NOT NULL,
    environment_id integer NOT NULL,
    kind           text NOT NULL CHECK (kind IN ('end', 'trigger')),
    target_id      uuid NOT NULL,
    message        jsonb,
    tries          integer NOT NULL DEFAULT 0,
    due_at         timestamptz NOT NULL,
    CHECK ((kind = 'trigger') = (message IS NOT NULL))
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE headrace.outbox IS 'What another store is to be told: at least once, and there it has its effect once.';
CREATE INDEX outbox_due ON headrace.outbox (store, due_at, id);
CREATE INDEX outbox_by_target ON headrace.outbox (environment_id, target_id);

-- The hint that there is mail goes out with the commit. It is sent where another store waits only, so that no other commit
-- pays for it.
CREATE FUNCTION headrace.announce_outbox() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('headrace_outbox', '0');
    RETURN NULL;
END
$$;
CREATE TRIGGER announced AFTER INSERT ON headrace.outbox FOR EACH ROW EXECUTE FUNCTION headrace.announce_outbox();

-- What a run is told of a target that is not here is what its mirror says. Where the target is here, no mirror is looked for.
CREATE OR REPLACE VIEW headrace.point_outcomes AS
SELECT j.environment_id, j.run_id, j.point, j.kind, j.pending, j.made, j.seen, j.target, j.failures, j.succeeded,
    extract(epoch FROM j.due_at - headrace.clock())::float8 AS due_in,
    CASE j.kind
        WHEN 'run' THEN coalesce(c.status::text, m.status)
        WHEN 'batch' THEN b.status::text
        WHEN 'progress' THEN b.status::text
        WHEN 'token' THEN coalesce(t.status::text, m.status)
    END AS status,
    CASE j.kind
        WHEN 'run' THEN CASE WHEN c.status IS NULL THEN m.output ELSE c.output END
        WHEN 'token' THEN CASE WHEN t.status IS NULL THEN m.output ELSE t.output END
        ELSE j.value
    END AS value,
    CASE j.kind
        WHEN 'run' THEN CASE WHEN c.status IS NULL THEN m.output_type ELSE c.output_type END
        WHEN 'token' THEN CASE WHEN t.status IS NULL THEN m.output_type ELSE t.output_type END
        ELSE j.value_type
    END AS value_type,
    (CASE j.kind
        WHEN 'run' THEN CASE WHEN c.status IS NULL THEN m.error ELSE c.error END
        WHEN 'batch' THEN b.error
        ELSE j.error
    END)::text AS error,
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
) AS t ON true
LEFT JOIN LATERAL (
    SELECT f.status, f.output, f.output_type, f.error FROM headrace.mirrors AS f
    WHERE j.kind IN ('run', 'token') AND NOT j.pending AND c.status IS NULL AND t.status IS NULL
        AND f.environment_id = j.environment_id AND f.id = j.target AND f.kind = j.kind::text
    LIMIT 1
) AS m ON true;

-- As before, but an item may stand for a run of another store: then it stands for that one's mirror.
CREATE OR REPLACE FUNCTION headrace.count_items(environment_id integer, batch_id uuid, run_count integer)
    RETURNS TABLE (missing integer, aliased integer, prefailed integer, settled integer, succeeded integer)
    LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT m.missing::integer, a.found::integer, (r.prefailed + m.missing)::integer,
        least(r.settled + a.settled + m.missing, $3)::integer, (r.succeeded + a.succeeded)::integer
    FROM (
        SELECT count(*) AS found, count(o.finished_at) AS settled,
            count(*) FILTER (WHERE o.status = 'COMPLETED') AS succeeded,
            count(*) FILTER (WHERE o.status = 'SYSTEM_FAILURE' AND o.attempt = 0) AS prefailed
        FROM headrace.runs AS o
        WHERE o.environment_id = $1 AND o.batch_id = $2
            AND o.id BETWEEN headrace.item_run_id($2, 0) AND headrace.item_run_id($2, 2147483647)
    ) AS r,
    (
        SELECT count(*) AS found,
            count(*) FILTER (
                WHERE i.settled OR o.finished_at IS NOT NULL OR (o.id IS NULL AND (f.id IS NULL OR f.resolved_at IS NOT NULL))
            ) AS settled,
            count(*) FILTER (WHERE coalesce(o.status::text, f.status) = 'COMPLETED') AS succeeded
        FROM headrace.batch_aliases AS i
        LEFT JOIN headrace.runs AS o ON o.environment_id = i.environment_id AND o.id = i.run_id
        LEFT JOIN headrace.mirrors AS f ON f.environment_id = i.environment_id AND f.id = i.run_id AND f.kind = 'run'
        WHERE i.environment_id = $1 AND i.batch_id = $2
    ) AS a,
    LATERAL (SELECT greatest($3 - r.found - a.found, 0) AS missing) AS m
$$;
