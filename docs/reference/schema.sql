-- What the migrations make, as pg_dump writes it. Made by: python -m tests.store.test_schema

CREATE SCHEMA headrace;
CREATE TYPE headrace.batch_status AS ENUM (
    'PENDING',
    'PROCESSING',
    'COMPLETED',
    'PARTIAL_FAILED',
    'ABORTED'
);
CREATE TYPE headrace.bulk_kind AS ENUM (
    'CANCEL',
    'REPLAY'
);
CREATE TYPE headrace.bulk_status AS ENUM (
    'PENDING',
    'COMPLETED',
    'ABORTED'
);
CREATE TYPE headrace.lane_kind AS ENUM (
    'plain',
    'keyed',
    'ordered'
);
CREATE TYPE headrace.point_kind AS ENUM (
    'run',
    'batch',
    'progress',
    'time',
    'token',
    'step',
    'effect'
);
CREATE TYPE headrace.run_status AS ENUM (
    'PENDING_VERSION',
    'DELAYED',
    'QUEUED',
    'DEQUEUED',
    'EXECUTING',
    'WAITING',
    'COMPLETED',
    'CANCELED',
    'FAILED',
    'CRASHED',
    'SYSTEM_FAILURE',
    'EXPIRED',
    'TIMED_OUT'
);
CREATE TYPE headrace.token_status AS ENUM (
    'WAITING',
    'COMPLETED',
    'TIMED_OUT'
);
CREATE FUNCTION headrace.announce_outbox() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM pg_notify('headrace_outbox', '0');
    RETURN NULL;
END
$$;
CREATE FUNCTION headrace.become_store(store_key text, store_name text, store_fleet uuid) RETURNS void
    LANGUAGE plpgsql
    AS $$
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
COMMENT ON FUNCTION headrace.become_store(store_key text, store_name text, store_fleet uuid) IS 'Makes an empty database the store with this key; fails where it holds rows of another one''s.';
CREATE FUNCTION headrace.clock() RETURNS timestamp with time zone
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (now() + (COALESCE(NULLIF(current_setting('headrace.clock_shift'::text, true), ''::text), '0'::text))::interval);
CREATE FUNCTION headrace.count_items(environment_id integer, batch_id uuid, run_count integer) RETURNS TABLE(missing integer, aliased integer, prefailed integer, settled integer, succeeded integer)
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $_$
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
$_$;
CREATE FUNCTION headrace.hint_control() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM pg_notify('headrace_control', '0'); -- all of them
    ELSIF TG_TABLE_NAME = 'environments' THEN
        PERFORM pg_notify('headrace_control', coalesce(NEW.id, OLD.id)::text);
    ELSE
        IF TG_OP = 'UPDATE' AND OLD.environment_id <> NEW.environment_id THEN
            PERFORM pg_notify('headrace_control', OLD.environment_id::text);
        END IF;
        PERFORM pg_notify('headrace_control', coalesce(NEW.environment_id, OLD.environment_id)::text);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION headrace.hint_control() IS 'Tells processes that an environment or its API keys have changed; 0 is any.';
CREATE FUNCTION headrace.item_run_id(batch_id uuid, index integer) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (encode(((SUBSTRING(uuid_send(batch_id) FROM 1 FOR 11) || int4send(index)) || SUBSTRING(uuid_send(batch_id) FROM 16)), 'hex'::text))::uuid;
CREATE FUNCTION headrace.mirror_serves(environment_id integer, id uuid, kind text) RETURNS boolean
    LANGUAGE sql STABLE
    AS $_$
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
$_$;
CREATE FUNCTION headrace.note_control_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF coalesce(current_setting('headrace.control_noted', true), '') <> 'yes' THEN
        PERFORM set_config('headrace.control_noted', 'yes', true);
        UPDATE headrace.control SET epoch = epoch + 1, mark = gen_random_uuid()
        WHERE EXISTS (SELECT FROM headrace.identity WHERE key = '0');
    END IF;
    RETURN NULL;
END
$$;
CREATE TABLE headrace.queues (
    id integer NOT NULL,
    environment_id integer NOT NULL,
    name text NOT NULL,
    declared_limit integer,
    override_limit integer,
    override_percent double precision,
    overridden_at timestamp with time zone,
    key_limit integer,
    rate_limit integer,
    rate_period double precision,
    rate_by_key boolean DEFAULT false NOT NULL,
    keeps_slots boolean DEFAULT false NOT NULL,
    paused_at timestamp with time zone,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    CONSTRAINT queues_check CHECK (((rate_limit IS NULL) = (rate_period IS NULL))),
    CONSTRAINT queues_declared_limit_check CHECK ((declared_limit >= 0)),
    CONSTRAINT queues_key_limit_check CHECK ((key_limit > 0)),
    CONSTRAINT queues_override_limit_check CHECK ((override_limit >= 0)),
    CONSTRAINT queues_override_percent_check CHECK (((override_percent > (0)::double precision) AND (override_percent <= (100)::double precision))),
    CONSTRAINT queues_rate_limit_check CHECK ((rate_limit > 0)),
    CONSTRAINT queues_rate_period_check CHECK ((rate_period > (0)::double precision))
);
CREATE FUNCTION headrace.queue_limit(q headrace.queues, environment_limit integer) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN LEAST(CASE WHEN ((q).override_limit IS NOT NULL) THEN (q).override_limit WHEN (((q).override_percent IS NOT NULL) AND (environment_limit IS NOT NULL)) THEN GREATEST((floor((((environment_limit)::double precision * (q).override_percent) / (100)::double precision)))::integer, 1) ELSE (q).declared_limit END, environment_limit);
CREATE FUNCTION headrace.run_expiry(due timestamp with time zone, ttl double precision, default_ttl double precision, max_ttl double precision) RETURNS timestamp with time zone
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (due + make_interval(secs => LEAST(NULLIF(COALESCE(ttl, default_ttl), (0)::double precision), max_ttl)));
CREATE FUNCTION headrace.settled_batch_status(status headrace.batch_status, run_count integer, settled integer, prefailed integer) RETURNS headrace.batch_status
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN ((status <> 'PROCESSING'::headrace.batch_status) OR (settled < run_count)) THEN status WHEN (prefailed = 0) THEN 'COMPLETED'::headrace.batch_status WHEN (prefailed < run_count) THEN 'PARTIAL_FAILED'::headrace.batch_status ELSE 'ABORTED'::headrace.batch_status END;
CREATE TABLE headrace.api_keys (
    id integer NOT NULL,
    environment_id integer NOT NULL,
    name text NOT NULL,
    secret_hash bytea NOT NULL,
    hint text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    revoked_at timestamp with time zone
);
ALTER TABLE headrace.api_keys ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME headrace.api_keys_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE headrace.arrivals (
    move_id uuid NOT NULL,
    at timestamp with time zone NOT NULL
);
CREATE TABLE headrace.attempts (
    environment_id integer NOT NULL,
    run_id uuid NOT NULL,
    number smallint NOT NULL,
    status headrace.run_status NOT NULL,
    worker_id bigint,
    started_at timestamp with time zone,
    finished_at timestamp with time zone NOT NULL,
    error jsonb
);
CREATE TABLE headrace.batch_aliases (
    environment_id integer NOT NULL,
    batch_id uuid NOT NULL,
    batch_index integer NOT NULL,
    run_id uuid NOT NULL,
    settled boolean DEFAULT false NOT NULL
);
CREATE TABLE headrace.batches (
    environment_id integer NOT NULL,
    id uuid NOT NULL,
    status headrace.batch_status DEFAULT 'PENDING'::headrace.batch_status NOT NULL,
    start_policy text NOT NULL,
    run_count integer,
    accepted integer DEFAULT 0 NOT NULL,
    highest_index integer DEFAULT '-1'::integer NOT NULL,
    aliased integer DEFAULT 0 NOT NULL,
    prefailed integer DEFAULT 0 NOT NULL,
    settled integer DEFAULT 0 NOT NULL,
    succeeded integer DEFAULT 0 NOT NULL,
    sealed_at timestamp with time zone,
    seal_deadline timestamp with time zone NOT NULL,
    processing_completed_at timestamp with time zone,
    completed_at timestamp with time zone,
    parent_run_id uuid,
    resume_parent boolean DEFAULT false NOT NULL,
    idempotency_key text,
    traceparent text,
    error jsonb,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    root_run_id uuid,
    depth smallint DEFAULT 0 NOT NULL,
    watched boolean DEFAULT false NOT NULL,
    followed boolean DEFAULT false NOT NULL,
    moved boolean,
    CONSTRAINT batches_check CHECK ((accepted <= run_count)),
    CONSTRAINT batches_check1 CHECK (((settled <= accepted) AND (succeeded <= settled) AND (prefailed <= settled) AND (aliased <= accepted))),
    CONSTRAINT batches_check2 CHECK (((sealed_at IS NULL) OR (status = 'ABORTED'::headrace.batch_status) OR ((accepted = run_count) AND (highest_index = (run_count - 1))))),
    CONSTRAINT batches_owned CHECK (((get_byte(uuid_send(id), 15) = 0) OR (moved IS TRUE))),
    CONSTRAINT batches_run_count_check CHECK ((run_count > 0)),
    CONSTRAINT batches_start_policy_check CHECK ((start_policy = ANY (ARRAY['add'::text, 'seal'::text])))
)
WITH (fillfactor='50');
CREATE TABLE headrace.bulk_actions (
    environment_id integer NOT NULL,
    id uuid NOT NULL,
    kind headrace.bulk_kind NOT NULL,
    status headrace.bulk_status DEFAULT 'PENDING'::headrace.bulk_status NOT NULL,
    name text,
    filter jsonb,
    cursor uuid,
    selected_at timestamp with time zone,
    total integer DEFAULT 0 NOT NULL,
    succeeded integer DEFAULT 0 NOT NULL,
    failed integer DEFAULT 0 NOT NULL,
    created_at timestamp with time zone NOT NULL,
    completed_at timestamp with time zone,
    CONSTRAINT bulk_actions_check CHECK (((succeeded + failed) <= total)),
    CONSTRAINT bulk_actions_check1 CHECK (((status = 'PENDING'::headrace.bulk_status) = (completed_at IS NULL))),
    CONSTRAINT bulk_actions_check2 CHECK (((status <> 'COMPLETED'::headrace.bulk_status) OR ((selected_at IS NOT NULL) AND ((succeeded + failed) = total))))
)
WITH (fillfactor='50');
CREATE TABLE headrace.bulk_members (
    environment_id integer NOT NULL,
    action_id uuid NOT NULL,
    run_id uuid NOT NULL,
    succeeded boolean,
    result_id uuid,
    error text
)
WITH (fillfactor='80');
CREATE TABLE headrace.bulk_parts (
    environment_id integer NOT NULL,
    action_id uuid NOT NULL,
    store text NOT NULL,
    run_ids uuid[],
    status headrace.bulk_status DEFAULT 'PENDING'::headrace.bulk_status NOT NULL,
    selected boolean DEFAULT false NOT NULL,
    total integer DEFAULT 0 NOT NULL,
    succeeded integer DEFAULT 0 NOT NULL,
    failed integer DEFAULT 0 NOT NULL,
    CONSTRAINT bulk_parts_store_check CHECK ((store ~ '^[1-9a-z]$'::text))
)
WITH (fillfactor='50');
COMMENT ON TABLE headrace.bulk_parts IS 'In the home store: the parts that a bulk action has in others. It is over when all are.';
CREATE TABLE headrace.control (
    one boolean DEFAULT true NOT NULL,
    epoch bigint DEFAULT 0 NOT NULL,
    mark uuid DEFAULT gen_random_uuid() NOT NULL,
    copied bigint,
    copied_mark uuid,
    recounting boolean DEFAULT false NOT NULL,
    CONSTRAINT control_one_check CHECK (one)
);
COMMENT ON TABLE headrace.control IS 'How far the control plane is: one row. It changes with every change of an environment, a queue, a task or a version.';
CREATE TABLE headrace.declarations (
    environment_id integer NOT NULL,
    task text NOT NULL,
    version text NOT NULL,
    pattern text NOT NULL,
    timezone text NOT NULL,
    catch_up text NOT NULL,
    options jsonb
);
CREATE TABLE headrace.departures (
    move_id uuid NOT NULL,
    place bigint NOT NULL,
    kind text NOT NULL,
    content jsonb NOT NULL
);
COMMENT ON TABLE headrace.departures IS 'The rows of trees that have left this store and have not arrived.';
ALTER TABLE headrace.departures ALTER COLUMN place ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME headrace.departures_place_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE headrace.dev_claims (
    environment_id integer NOT NULL,
    run_id uuid NOT NULL,
    session_id uuid NOT NULL,
    attempt integer NOT NULL
);
CREATE TABLE headrace.dev_sessions (
    environment_id integer NOT NULL,
    id uuid NOT NULL,
    kept_until timestamp with time zone NOT NULL
)
WITH (fillfactor='50');
CREATE TABLE headrace.environments (
    id integer NOT NULL,
    slug text NOT NULL,
    signing_secret bytea NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    concurrency_limit integer,
    default_ttl double precision,
    max_ttl double precision,
    paused_at timestamp with time zone,
    CONSTRAINT environments_concurrency_limit_check CHECK ((concurrency_limit >= 0)),
    CONSTRAINT environments_default_ttl_check CHECK ((default_ttl > (0)::double precision)),
    CONSTRAINT environments_max_ttl_check CHECK ((max_ttl > (0)::double precision)),
    CONSTRAINT environments_slug_check CHECK ((slug ~ '^[a-z][a-z0-9-]{0,62}$'::text))
);
ALTER TABLE headrace.environments ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME headrace.environments_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE headrace.forwards (
    id uuid NOT NULL,
    store text NOT NULL,
    move_id uuid
);
COMMENT ON COLUMN headrace.forwards.store IS 'The key of a store; this one''s own where the thing has come back.';
CREATE TABLE headrace.idempotency_keys (
    environment_id integer NOT NULL,
    scope text NOT NULL,
    key_hash bytea NOT NULL,
    target_id uuid NOT NULL,
    fingerprint bytea,
    expires_at timestamp with time zone NOT NULL,
    reserved_at timestamp with time zone
);
COMMENT ON COLUMN headrace.idempotency_keys.reserved_at IS 'Reserved then for something that nobody has seen made yet (headrace.engine.foreign_keys).';
CREATE TABLE headrace.identity (
    one boolean DEFAULT true NOT NULL,
    key text NOT NULL,
    name text NOT NULL,
    fleet uuid DEFAULT gen_random_uuid() NOT NULL,
    legacy text,
    imported boolean DEFAULT false NOT NULL,
    CONSTRAINT identity_key_check CHECK ((key ~ '^[0-9a-z]$'::text)),
    CONSTRAINT identity_legacy_check CHECK ((legacy ~ '^[0-9a-z]$'::text)),
    CONSTRAINT identity_one_check CHECK (one)
);
COMMENT ON TABLE headrace.identity IS 'Which store this database is, and of which installation: one row.';
COMMENT ON COLUMN headrace.identity.legacy IS 'At home: the key of the store that imported runs are made in. NULL: none was declared, so home.';
COMMENT ON COLUMN headrace.identity.imported IS 'At home: runs were imported there, so it stays where they are looked for first.';
CREATE TABLE headrace.interests (
    environment_id integer NOT NULL,
    target_id uuid NOT NULL,
    store text NOT NULL
);
COMMENT ON TABLE headrace.interests IS 'Other stores that wait for a run or token of this one. Its end moves them to the outbox.';
CREATE TABLE headrace.journal (
    environment_id integer NOT NULL,
    run_id uuid NOT NULL,
    point text NOT NULL,
    kind headrace.point_kind NOT NULL,
    pending boolean NOT NULL,
    made integer NOT NULL,
    seen integer,
    target uuid,
    due_at timestamp with time zone,
    failures smallint DEFAULT 0 NOT NULL,
    succeeded boolean,
    value bytea,
    value_type text,
    error jsonb,
    cascade boolean DEFAULT true NOT NULL,
    canceling boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone NOT NULL,
    done_at timestamp with time zone
)
WITH (fillfactor='90');
CREATE TABLE headrace.lanes (
    id integer NOT NULL,
    environment_id integer NOT NULL,
    task text NOT NULL,
    queue text NOT NULL,
    batch_id uuid,
    open boolean DEFAULT true NOT NULL,
    version text,
    kind headrace.lane_kind DEFAULT 'plain'::headrace.lane_kind NOT NULL,
    locked boolean DEFAULT false NOT NULL
);
CREATE TABLE headrace.tasks (
    environment_id integer NOT NULL,
    id text NOT NULL,
    queue text NOT NULL,
    max_attempts integer NOT NULL,
    registered_at timestamp with time zone NOT NULL,
    skips_failed boolean DEFAULT false NOT NULL,
    coalesces integer DEFAULT 1 NOT NULL,
    current_version text,
    CONSTRAINT tasks_coalesces_check CHECK ((coalesces > 0))
);
CREATE TABLE headrace.version_tasks (
    version_id integer NOT NULL,
    task text NOT NULL,
    first_seen_at timestamp with time zone NOT NULL
);
CREATE TABLE headrace.versions (
    id integer NOT NULL,
    environment_id integer NOT NULL,
    version text NOT NULL,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL,
    promoted_at timestamp with time zone
);
CREATE VIEW headrace.lane_states AS
 SELECT id,
    environment_id,
    task,
    queue,
    version,
    locked,
        CASE
            WHEN locked THEN (NOT (EXISTS ( SELECT
               FROM (headrace.versions v
                 JOIN headrace.version_tasks t ON ((t.version_id = v.id)))
              WHERE ((v.environment_id = l.environment_id) AND (v.version = l.version) AND (t.task = l.task)))))
            ELSE (NOT (EXISTS ( SELECT
               FROM headrace.tasks t
              WHERE ((t.environment_id = l.environment_id) AND (t.id = l.task)))))
        END AS pending
   FROM headrace.lanes l;
ALTER TABLE headrace.lanes ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME headrace.lanes_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE UNLOGGED TABLE headrace.limit_turns (
    environment_id integer NOT NULL,
    queue text NOT NULL,
    tried_at timestamp with time zone,
    took_at timestamp with time zone,
    wants_until timestamp with time zone
)
WITH (fillfactor='50');
COMMENT ON TABLE headrace.limit_turns IS 'Which limits this store''s workers would claim more under, and when they last did. Of use with several stores only.';
CREATE TABLE headrace.mirrors (
    environment_id integer NOT NULL,
    id uuid NOT NULL,
    kind text NOT NULL,
    status text,
    task text,
    output bytea,
    output_type text,
    error jsonb,
    made_at timestamp with time zone NOT NULL,
    resolved_at timestamp with time zone,
    CONSTRAINT mirrors_kind_check CHECK ((kind = ANY (ARRAY['run'::text, 'token'::text])))
);
COMMENT ON TABLE headrace.mirrors IS 'What stands here for a run or token of another store that is waited for here.';
COMMENT ON COLUMN headrace.mirrors.status IS 'How it ended. Null while it has not, and for ever where it is not in its store.';
CREATE TABLE headrace.move_members (
    move_id uuid NOT NULL,
    kind text NOT NULL,
    id uuid NOT NULL
);
CREATE TABLE headrace.moves (
    id uuid NOT NULL,
    environment_id integer NOT NULL,
    unit_id uuid NOT NULL,
    kind text NOT NULL,
    store text NOT NULL,
    asked_at timestamp with time zone NOT NULL,
    tried_at timestamp with time zone,
    held_up text,
    cut_at timestamp with time zone,
    parked_until timestamp with time zone,
    park_after timestamp with time zone,
    parkings integer DEFAULT 0 NOT NULL,
    CONSTRAINT moves_kind_check CHECK ((kind = ANY (ARRAY['run'::text, 'batch'::text, 'token'::text])))
);
COMMENT ON TABLE headrace.moves IS 'Trees that are to leave this store, or have left it and have not arrived.';
COMMENT ON COLUMN headrace.moves.store IS 'The key of the store that they go to.';
COMMENT ON COLUMN headrace.moves.held_up IS 'Why it could not be cut when that was tried last.';
COMMENT ON COLUMN headrace.moves.parked_until IS 'Its runs are parked, and let go then where it could not leave. Null: they are not.';
COMMENT ON COLUMN headrace.moves.park_after IS 'They are not parked again before that.';
COMMENT ON COLUMN headrace.moves.parkings IS 'How often they have been parked: each time for longer.';
CREATE TABLE headrace.outbox (
    id bigint NOT NULL,
    store text NOT NULL,
    environment_id integer NOT NULL,
    kind text NOT NULL,
    target_id uuid NOT NULL,
    message jsonb,
    tries integer DEFAULT 0 NOT NULL,
    due_at timestamp with time zone NOT NULL,
    CONSTRAINT outbox_check CHECK (((kind = 'trigger'::text) = (message IS NOT NULL))),
    CONSTRAINT outbox_kind_check CHECK ((kind = ANY (ARRAY['end'::text, 'trigger'::text])))
)
WITH (autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_cost_delay='0');
COMMENT ON TABLE headrace.outbox IS 'What another store is to be told: at least once, and there it has its effect once.';
ALTER TABLE headrace.outbox ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME headrace.outbox_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE headrace.parkings (
    environment_id integer NOT NULL,
    root_id uuid NOT NULL,
    move_id uuid NOT NULL
);
COMMENT ON TABLE headrace.parkings IS 'Tops of trees that are to move, of which no run is started any more.';
CREATE TABLE headrace.runs (
    environment_id integer NOT NULL,
    lane_id integer NOT NULL,
    id uuid NOT NULL,
    batch_id uuid,
    batch_index integer,
    status headrace.run_status NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    failures smallint DEFAULT 0 NOT NULL,
    rescues smallint DEFAULT 0 NOT NULL,
    watched boolean DEFAULT false NOT NULL,
    worker_id bigint,
    ready_at timestamp with time zone NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    delayed_until timestamp with time zone,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    parent_run_id uuid,
    payload bytea,
    payload_type text,
    output bytea,
    output_type text,
    error jsonb,
    options jsonb,
    idempotency_key text,
    traceparent text,
    resumes integer DEFAULT 0 NOT NULL,
    root_run_id uuid,
    depth smallint DEFAULT 0 NOT NULL,
    metadata jsonb,
    concurrency_key text COLLATE pg_catalog."C",
    order_key text COLLATE pg_catalog."C",
    order_number bigint,
    order_lane_id integer,
    counted_in integer,
    expires_at timestamp with time zone,
    schedule_id uuid,
    replayed_from uuid,
    version_id integer,
    metadata_write bigint,
    moved boolean,
    parked timestamp with time zone,
    CONSTRAINT runs_check CHECK (((batch_id IS NULL) = (batch_index IS NULL))),
    CONSTRAINT runs_check1 CHECK (((batch_id IS NULL) OR (id = headrace.item_run_id(batch_id, batch_index)))),
    CONSTRAINT runs_check2 CHECK (((concurrency_key IS NULL) OR (order_key IS NULL))),
    CONSTRAINT runs_check3 CHECK ((((order_key IS NULL) = (order_number IS NULL)) AND ((order_key IS NULL) = (order_lane_id IS NULL)))),
    CONSTRAINT runs_owned CHECK (((get_byte(uuid_send(id), 15) = 0) OR (moved IS TRUE)))
)
WITH (fillfactor='90', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_cost_delay='0');
COMMENT ON COLUMN headrace.runs.parked IS 'When a run that is parked would be ready. Null for all others.';
CREATE TABLE headrace.tokens (
    environment_id integer NOT NULL,
    id uuid NOT NULL,
    status headrace.token_status DEFAULT 'WAITING'::headrace.token_status NOT NULL,
    run_id uuid,
    tags text[] DEFAULT '{}'::text[] NOT NULL,
    idempotency_key text,
    idempotency_key_expires_at timestamp with time zone,
    timeout_at timestamp with time zone,
    output bytea,
    output_type text,
    created_at timestamp with time zone NOT NULL,
    completed_at timestamp with time zone,
    moved boolean,
    CONSTRAINT tokens_check CHECK (((status = 'WAITING'::headrace.token_status) = (completed_at IS NULL))),
    CONSTRAINT tokens_owned CHECK (((get_byte(uuid_send(id), 15) = 0) OR (moved IS TRUE)))
);
CREATE VIEW headrace.point_outcomes AS
 SELECT j.environment_id,
    j.run_id,
    j.point,
    j.kind,
    j.pending,
    j.made,
    j.seen,
    j.target,
    j.failures,
    j.succeeded,
    (EXTRACT(epoch FROM (j.due_at - headrace.clock())))::double precision AS due_in,
        CASE j.kind
            WHEN 'run'::headrace.point_kind THEN COALESCE((c.status)::text, m.status)
            WHEN 'batch'::headrace.point_kind THEN (b.status)::text
            WHEN 'progress'::headrace.point_kind THEN (b.status)::text
            WHEN 'token'::headrace.point_kind THEN COALESCE((t.status)::text, m.status)
            ELSE NULL::text
        END AS status,
        CASE j.kind
            WHEN 'run'::headrace.point_kind THEN
            CASE
                WHEN (c.status IS NULL) THEN m.output
                ELSE c.output
            END
            WHEN 'token'::headrace.point_kind THEN
            CASE
                WHEN (t.status IS NULL) THEN m.output
                ELSE t.output
            END
            ELSE j.value
        END AS value,
        CASE j.kind
            WHEN 'run'::headrace.point_kind THEN
            CASE
                WHEN (c.status IS NULL) THEN m.output_type
                ELSE c.output_type
            END
            WHEN 'token'::headrace.point_kind THEN
            CASE
                WHEN (t.status IS NULL) THEN m.output_type
                ELSE t.output_type
            END
            ELSE j.value_type
        END AS value_type,
    (
        CASE j.kind
            WHEN 'run'::headrace.point_kind THEN
            CASE
                WHEN (c.status IS NULL) THEN m.error
                ELSE c.error
            END
            WHEN 'batch'::headrace.point_kind THEN b.error
            ELSE j.error
        END)::text AS error,
    b.run_count
   FROM ((((headrace.journal j
     LEFT JOIN LATERAL ( SELECT r.status,
            r.output,
            r.output_type,
            r.error
           FROM headrace.runs r
          WHERE ((j.kind = 'run'::headrace.point_kind) AND (NOT j.pending) AND (r.environment_id = j.environment_id) AND (r.id = j.target))
         LIMIT 1) c ON (true))
     LEFT JOIN LATERAL ( SELECT k.status,
            k.run_count,
            k.error
           FROM headrace.batches k
          WHERE ((j.kind = ANY (ARRAY['batch'::headrace.point_kind, 'progress'::headrace.point_kind])) AND (k.environment_id = j.environment_id) AND (k.id = j.target))
         LIMIT 1) b ON (true))
     LEFT JOIN LATERAL ( SELECT o.status,
            o.output,
            o.output_type
           FROM headrace.tokens o
          WHERE ((j.kind = 'token'::headrace.point_kind) AND (NOT j.pending) AND (o.environment_id = j.environment_id) AND (o.id = j.target))
         LIMIT 1) t ON (true))
     LEFT JOIN LATERAL ( SELECT f.status,
            f.output,
            f.output_type,
            f.error
           FROM headrace.mirrors f
          WHERE ((j.kind = ANY (ARRAY['run'::headrace.point_kind, 'token'::headrace.point_kind])) AND (NOT j.pending) AND (c.status IS NULL) AND (t.status IS NULL) AND (f.environment_id = j.environment_id) AND (f.id = j.target) AND (f.kind = (j.kind)::text))
         LIMIT 1) m ON (true));
CREATE TABLE headrace.queue_rates (
    queue_id integer NOT NULL,
    key text NOT NULL COLLATE pg_catalog."C",
    used_until timestamp with time zone NOT NULL
);
ALTER TABLE headrace.queues ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME headrace.queues_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE SEQUENCE headrace.run_order
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
CREATE TABLE headrace.schedules (
    environment_id integer NOT NULL,
    id uuid NOT NULL,
    declared boolean NOT NULL,
    task text NOT NULL,
    deduplication_key text,
    external_id text,
    pattern text NOT NULL,
    timezone text NOT NULL,
    catch_up text NOT NULL,
    options jsonb,
    active boolean DEFAULT true NOT NULL,
    next_tick timestamp with time zone,
    last_tick timestamp with time zone,
    last_run_id uuid,
    fault text,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    CONSTRAINT schedules_catch_up_check CHECK ((catch_up = ANY (ARRAY['skip'::text, 'one'::text, 'all'::text]))),
    CONSTRAINT schedules_check CHECK ((declared = (deduplication_key IS NULL)))
)
WITH (fillfactor='80');
CREATE TABLE headrace.stores (
    key text NOT NULL,
    name text NOT NULL,
    url text,
    weight double precision DEFAULT 1 NOT NULL,
    state text DEFAULT 'active'::text NOT NULL,
    opens_at timestamp with time zone DEFAULT now() NOT NULL,
    added_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT stores_key_check CHECK ((key ~ '^[0-9a-z]$'::text)),
    CONSTRAINT stores_name_check CHECK ((name ~ '^[a-z][a-z0-9-]{0,62}$'::text)),
    CONSTRAINT stores_state_check CHECK ((state = ANY (ARRAY['active'::text, 'draining'::text, 'removed'::text]))),
    CONSTRAINT stores_weight_check CHECK (((weight >= (0)::double precision) AND (weight <= (1000000)::double precision)))
);
COMMENT ON TABLE headrace.stores IS 'In the home store: all stores. A key is never given twice, because ids hold it.';
COMMENT ON COLUMN headrace.stores.opens_at IS 'No new root goes there before: by then every process has read this row.';
ALTER TABLE headrace.versions ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME headrace.versions_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE headrace.workers (
    id bigint NOT NULL,
    environment_id integer NOT NULL,
    name text NOT NULL,
    started_at timestamp with time zone NOT NULL,
    lease_until timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    emptied_at timestamp with time zone,
    version text DEFAULT ''::text NOT NULL,
    tasks text[],
    queues text[]
)
WITH (fillfactor='50');
ALTER TABLE headrace.workers ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME headrace.workers_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
ALTER TABLE ONLY headrace.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (id);
ALTER TABLE ONLY headrace.api_keys
    ADD CONSTRAINT api_keys_secret_hash_key UNIQUE (secret_hash);
ALTER TABLE ONLY headrace.arrivals
    ADD CONSTRAINT arrivals_pkey PRIMARY KEY (move_id);
ALTER TABLE ONLY headrace.attempts
    ADD CONSTRAINT attempts_pkey PRIMARY KEY (environment_id, run_id, number);
ALTER TABLE ONLY headrace.batch_aliases
    ADD CONSTRAINT batch_aliases_pkey PRIMARY KEY (environment_id, batch_id, batch_index);
ALTER TABLE ONLY headrace.batches
    ADD CONSTRAINT batches_pkey PRIMARY KEY (environment_id, id);
ALTER TABLE ONLY headrace.bulk_actions
    ADD CONSTRAINT bulk_actions_pkey PRIMARY KEY (environment_id, id);
ALTER TABLE ONLY headrace.bulk_members
    ADD CONSTRAINT bulk_members_pkey PRIMARY KEY (environment_id, action_id, run_id);
ALTER TABLE ONLY headrace.bulk_parts
    ADD CONSTRAINT bulk_parts_pkey PRIMARY KEY (environment_id, action_id, store);
ALTER TABLE ONLY headrace.control
    ADD CONSTRAINT control_pkey PRIMARY KEY (one);
ALTER TABLE ONLY headrace.declarations
    ADD CONSTRAINT declarations_pkey PRIMARY KEY (environment_id, task, version);
ALTER TABLE ONLY headrace.departures
    ADD CONSTRAINT departures_pkey PRIMARY KEY (move_id, place);
ALTER TABLE ONLY headrace.dev_claims
    ADD CONSTRAINT dev_claims_pkey PRIMARY KEY (environment_id, run_id);
ALTER TABLE ONLY headrace.dev_sessions
    ADD CONSTRAINT dev_sessions_pkey PRIMARY KEY (environment_id, id);
ALTER TABLE ONLY headrace.environments
    ADD CONSTRAINT environments_pkey PRIMARY KEY (id);
ALTER TABLE ONLY headrace.environments
    ADD CONSTRAINT environments_slug_key UNIQUE (slug);
ALTER TABLE ONLY headrace.forwards
    ADD CONSTRAINT forwards_pkey PRIMARY KEY (id);
ALTER TABLE ONLY headrace.idempotency_keys
    ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (environment_id, scope, key_hash);
ALTER TABLE ONLY headrace.identity
    ADD CONSTRAINT identity_pkey PRIMARY KEY (one);
ALTER TABLE ONLY headrace.interests
    ADD CONSTRAINT interests_pkey PRIMARY KEY (environment_id, target_id, store);
ALTER TABLE ONLY headrace.journal
    ADD CONSTRAINT journal_pkey PRIMARY KEY (environment_id, run_id, point);
ALTER TABLE ONLY headrace.lanes
    ADD CONSTRAINT lanes_pkey PRIMARY KEY (id);
ALTER TABLE ONLY headrace.limit_turns
    ADD CONSTRAINT limit_turns_pkey PRIMARY KEY (environment_id, queue);
ALTER TABLE ONLY headrace.mirrors
    ADD CONSTRAINT mirrors_pkey PRIMARY KEY (environment_id, id, kind);
ALTER TABLE ONLY headrace.move_members
    ADD CONSTRAINT move_members_pkey PRIMARY KEY (move_id, kind, id);
ALTER TABLE ONLY headrace.moves
    ADD CONSTRAINT moves_pkey PRIMARY KEY (id);
ALTER TABLE ONLY headrace.outbox
    ADD CONSTRAINT outbox_pkey PRIMARY KEY (id);
ALTER TABLE ONLY headrace.parkings
    ADD CONSTRAINT parkings_pkey PRIMARY KEY (environment_id, root_id);
ALTER TABLE ONLY headrace.queue_rates
    ADD CONSTRAINT queue_rates_pkey PRIMARY KEY (queue_id, key);
ALTER TABLE ONLY headrace.queues
    ADD CONSTRAINT queues_environment_id_name_key UNIQUE (environment_id, name);
ALTER TABLE ONLY headrace.queues
    ADD CONSTRAINT queues_pkey PRIMARY KEY (id);
ALTER TABLE ONLY headrace.runs
    ADD CONSTRAINT runs_pkey PRIMARY KEY (environment_id, id);
ALTER TABLE ONLY headrace.schedules
    ADD CONSTRAINT schedules_pkey PRIMARY KEY (environment_id, id);
ALTER TABLE ONLY headrace.stores
    ADD CONSTRAINT stores_name_key UNIQUE (name);
ALTER TABLE ONLY headrace.stores
    ADD CONSTRAINT stores_pkey PRIMARY KEY (key);
ALTER TABLE ONLY headrace.tasks
    ADD CONSTRAINT tasks_pkey PRIMARY KEY (environment_id, id);
ALTER TABLE ONLY headrace.tokens
    ADD CONSTRAINT tokens_pkey PRIMARY KEY (environment_id, id);
ALTER TABLE ONLY headrace.version_tasks
    ADD CONSTRAINT version_tasks_pkey PRIMARY KEY (version_id, task);
ALTER TABLE ONLY headrace.versions
    ADD CONSTRAINT versions_environment_id_version_key UNIQUE (environment_id, version);
ALTER TABLE ONLY headrace.versions
    ADD CONSTRAINT versions_pkey PRIMARY KEY (id);
ALTER TABLE ONLY headrace.workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (id);
CREATE INDEX batch_aliases_by_run ON headrace.batch_aliases USING btree (environment_id, run_id);
CREATE INDEX batch_aliases_open ON headrace.batch_aliases USING btree (environment_id, run_id) WHERE (NOT settled);
CREATE INDEX batches_by_root ON headrace.batches USING btree (environment_id, root_run_id) WHERE (root_run_id IS NOT NULL);
CREATE INDEX batches_by_seal ON headrace.batches USING btree (environment_id, sealed_at, id);
CREATE INDEX batches_held ON headrace.batches USING btree (id) WHERE ((status = 'ABORTED'::headrace.batch_status) AND (start_policy = 'seal'::text) AND (processing_completed_at IS NULL));
CREATE INDEX batches_open ON headrace.batches USING btree (id) WHERE ((sealed_at IS NOT NULL) AND (completed_at IS NULL));
CREATE INDEX batches_unsealed ON headrace.batches USING btree (seal_deadline) WHERE ((status = 'PENDING'::headrace.batch_status) AND (sealed_at IS NULL));
CREATE INDEX bulk_actions_pending ON headrace.bulk_actions USING btree (created_at, id) WHERE (status = 'PENDING'::headrace.bulk_status);
CREATE INDEX bulk_members_open ON headrace.bulk_members USING btree (environment_id, action_id, run_id) WHERE (succeeded IS NULL);
CREATE INDEX bulk_members_results ON headrace.bulk_members USING btree (environment_id, action_id, result_id) WHERE (result_id IS NOT NULL);
CREATE INDEX bulk_parts_open ON headrace.bulk_parts USING btree (environment_id, action_id) WHERE (status = 'PENDING'::headrace.bulk_status);
CREATE INDEX dev_claims_by_session ON headrace.dev_claims USING btree (environment_id, session_id, run_id);
CREATE INDEX idempotency_keys_expiry ON headrace.idempotency_keys USING btree (expires_at);
CREATE INDEX journal_canceling ON headrace.journal USING btree (environment_id, run_id) WHERE canceling;
CREATE INDEX journal_due ON headrace.journal USING btree (due_at) WHERE (pending AND (due_at IS NOT NULL));
CREATE INDEX journal_foreign ON headrace.journal USING btree (environment_id, target) WHERE ((target IS NOT NULL) AND ((NOT cascade) OR (kind = 'token'::headrace.point_kind)));
CREATE INDEX journal_waiters ON headrace.journal USING btree (environment_id, target) WHERE (pending AND (target IS NOT NULL));
CREATE INDEX lanes_by_batch ON headrace.lanes USING btree (batch_id) WHERE (batch_id IS NOT NULL);
CREATE UNIQUE INDEX lanes_by_name ON headrace.lanes USING btree (environment_id, task, queue, batch_id, version, kind, locked) NULLS NOT DISTINCT;
CREATE INDEX lanes_by_version ON headrace.lanes USING btree (environment_id, version) WHERE (version IS NOT NULL);
CREATE INDEX lanes_open ON headrace.lanes USING btree (environment_id, task) WHERE open;
CREATE INDEX mirrors_open ON headrace.mirrors USING btree (environment_id, id, kind) WHERE (resolved_at IS NULL);
CREATE UNIQUE INDEX moves_wanted ON headrace.moves USING btree (environment_id, unit_id, kind) WHERE (cut_at IS NULL);
CREATE INDEX outbox_by_target ON headrace.outbox USING btree (environment_id, target_id);
CREATE INDEX outbox_due ON headrace.outbox USING btree (store, due_at, id);
CREATE INDEX parkings_by_move ON headrace.parkings USING btree (move_id);
CREATE INDEX queue_rates_used ON headrace.queue_rates USING btree (queue_id, used_until);
CREATE INDEX runs_by_key ON headrace.runs USING btree (environment_id, hashtextextended(idempotency_key, (0)::bigint), id) WHERE (idempotency_key IS NOT NULL);
CREATE INDEX runs_by_root ON headrace.runs USING btree (environment_id, root_run_id) WHERE (root_run_id IS NOT NULL);
CREATE INDEX runs_by_schedule ON headrace.runs USING btree (environment_id, schedule_id, id) WHERE (schedule_id IS NOT NULL);
CREATE INDEX runs_by_tag ON headrace.runs USING gin (((options -> 'tags'::text))) WHERE ((options -> 'tags'::text) IS NOT NULL);
CREATE INDEX runs_counted ON headrace.runs USING btree (environment_id, counted_in, concurrency_key) WHERE ((status = 'EXECUTING'::headrace.run_status) AND (counted_in IS NOT NULL));
CREATE INDEX runs_expiring ON headrace.runs USING btree (expires_at) WHERE ((status = 'QUEUED'::headrace.run_status) AND (expires_at IS NOT NULL));
CREATE INDEX runs_held ON headrace.runs USING btree (worker_id) WHERE (status = 'EXECUTING'::headrace.run_status);
CREATE INDEX runs_in_order ON headrace.runs USING btree (order_lane_id, order_key) WHERE ((order_key IS NOT NULL) AND (status = ANY (ARRAY['EXECUTING'::headrace.run_status, 'WAITING'::headrace.run_status])));
CREATE INDEX runs_keyed ON headrace.runs USING btree (lane_id, concurrency_key, ready_at, id) WHERE ((status = 'QUEUED'::headrace.run_status) AND (concurrency_key IS NOT NULL));
CREATE INDEX runs_ordered ON headrace.runs USING btree (order_lane_id, order_key, order_number) WHERE ((order_key IS NOT NULL) AND (finished_at IS NULL));
CREATE INDEX runs_parked ON headrace.runs USING btree (environment_id, id) WHERE (parked IS NOT NULL);
CREATE INDEX runs_ready ON headrace.runs USING btree (lane_id, ready_at, id) WHERE (status = 'QUEUED'::headrace.run_status);
CREATE INDEX runs_unsuccessful ON headrace.runs USING btree (environment_id, id) WHERE (status = ANY (ARRAY['CANCELED'::headrace.run_status, 'FAILED'::headrace.run_status, 'CRASHED'::headrace.run_status, 'SYSTEM_FAILURE'::headrace.run_status, 'EXPIRED'::headrace.run_status, 'TIMED_OUT'::headrace.run_status]));
CREATE INDEX runs_waiting ON headrace.runs USING btree (lane_id, id) WHERE (status = 'WAITING'::headrace.run_status);
CREATE UNIQUE INDEX schedules_by_key ON headrace.schedules USING btree (environment_id, deduplication_key) WHERE (NOT declared);
CREATE INDEX schedules_declared ON headrace.schedules USING btree (environment_id, task) WHERE declared;
CREATE INDEX schedules_due ON headrace.schedules USING btree (next_tick) WHERE active;
CREATE INDEX tokens_by_run ON headrace.tokens USING btree (environment_id, run_id) WHERE (run_id IS NOT NULL);
CREATE INDEX tokens_due ON headrace.tokens USING btree (timeout_at) WHERE ((status = 'WAITING'::headrace.token_status) AND (timeout_at IS NOT NULL));
CREATE INDEX workers_by_version ON headrace.workers USING btree (environment_id, version) WHERE (ended_at IS NULL);
CREATE INDEX workers_not_emptied ON headrace.workers USING btree (id) WHERE (emptied_at IS NULL);
CREATE TRIGGER announced AFTER INSERT ON headrace.outbox FOR EACH ROW EXECUTE FUNCTION headrace.announce_outbox();
CREATE TRIGGER hint_control AFTER INSERT OR DELETE OR UPDATE OF environment_id, secret_hash, revoked_at ON headrace.api_keys FOR EACH ROW EXECUTE FUNCTION headrace.hint_control();
CREATE TRIGGER hint_control AFTER INSERT OR DELETE OR UPDATE OF slug, signing_secret ON headrace.environments FOR EACH ROW EXECUTE FUNCTION headrace.hint_control();
CREATE TRIGGER hint_control_all AFTER TRUNCATE ON headrace.api_keys FOR EACH STATEMENT EXECUTE FUNCTION headrace.hint_control();
CREATE CONSTRAINT TRIGGER note_control AFTER INSERT OR DELETE ON headrace.environments DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION headrace.note_control_change();
CREATE CONSTRAINT TRIGGER note_control AFTER INSERT OR DELETE ON headrace.queues DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION headrace.note_control_change();
CREATE CONSTRAINT TRIGGER note_control AFTER INSERT OR DELETE ON headrace.tasks DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION headrace.note_control_change();
CREATE CONSTRAINT TRIGGER note_control AFTER INSERT OR DELETE ON headrace.version_tasks DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION headrace.note_control_change();
CREATE CONSTRAINT TRIGGER note_control AFTER INSERT OR DELETE ON headrace.versions DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION headrace.note_control_change();
CREATE CONSTRAINT TRIGGER note_control_update AFTER UPDATE ON headrace.environments DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN ((old.* IS DISTINCT FROM new.*)) EXECUTE FUNCTION headrace.note_control_change();
CREATE CONSTRAINT TRIGGER note_control_update AFTER UPDATE ON headrace.queues DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN ((old.* IS DISTINCT FROM new.*)) EXECUTE FUNCTION headrace.note_control_change();
CREATE CONSTRAINT TRIGGER note_control_update AFTER UPDATE ON headrace.tasks DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN ((((((old.queue IS DISTINCT FROM new.queue) OR (old.max_attempts IS DISTINCT FROM new.max_attempts)) OR (old.skips_failed IS DISTINCT FROM new.skips_failed)) OR (old.coalesces IS DISTINCT FROM new.coalesces)) OR (old.current_version IS DISTINCT FROM new.current_version))) EXECUTE FUNCTION headrace.note_control_change();
CREATE CONSTRAINT TRIGGER note_control_update AFTER UPDATE ON headrace.versions DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN ((old.promoted_at IS DISTINCT FROM new.promoted_at)) EXECUTE FUNCTION headrace.note_control_change();
ALTER TABLE ONLY headrace.api_keys
    ADD CONSTRAINT api_keys_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES headrace.environments(id);
ALTER TABLE ONLY headrace.bulk_actions
    ADD CONSTRAINT bulk_actions_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES headrace.environments(id);
ALTER TABLE ONLY headrace.bulk_parts
    ADD CONSTRAINT bulk_parts_environment_id_action_id_fkey FOREIGN KEY (environment_id, action_id) REFERENCES headrace.bulk_actions(environment_id, id);
ALTER TABLE ONLY headrace.dev_sessions
    ADD CONSTRAINT dev_sessions_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES headrace.environments(id);
ALTER TABLE ONLY headrace.lanes
    ADD CONSTRAINT lanes_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES headrace.environments(id);
ALTER TABLE ONLY headrace.limit_turns
    ADD CONSTRAINT limit_turns_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES headrace.environments(id);
ALTER TABLE ONLY headrace.queue_rates
    ADD CONSTRAINT queue_rates_queue_id_fkey FOREIGN KEY (queue_id) REFERENCES headrace.queues(id) ON DELETE CASCADE;
ALTER TABLE ONLY headrace.queues
    ADD CONSTRAINT queues_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES headrace.environments(id);
ALTER TABLE ONLY headrace.schedules
    ADD CONSTRAINT schedules_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES headrace.environments(id);
ALTER TABLE ONLY headrace.tasks
    ADD CONSTRAINT tasks_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES headrace.environments(id);
ALTER TABLE ONLY headrace.version_tasks
    ADD CONSTRAINT version_tasks_version_id_fkey FOREIGN KEY (version_id) REFERENCES headrace.versions(id) ON DELETE CASCADE;
ALTER TABLE ONLY headrace.versions
    ADD CONSTRAINT versions_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES headrace.environments(id);
ALTER TABLE ONLY headrace.workers
    ADD CONSTRAINT workers_environment_id_fkey FOREIGN KEY (environment_id) REFERENCES headrace.environments(id);
