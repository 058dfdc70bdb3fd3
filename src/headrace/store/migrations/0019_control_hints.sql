-- What processes remember of API keys and environments is over at once in all that listen, whoever changes it: a hint goes out
-- with the commit of the change itself, also of one that is made by hand. Who does not listen remembers for a second at most.

CREATE FUNCTION headrace.hint_control() RETURNS trigger
    LANGUAGE plpgsql AS $$
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
COMMENT ON FUNCTION headrace.hint_control IS 'Tells processes that an environment or its API keys have changed; 0 is any.';

CREATE TRIGGER hint_control AFTER INSERT OR DELETE OR UPDATE OF environment_id, secret_hash, revoked_at ON headrace.api_keys
    FOR EACH ROW EXECUTE FUNCTION headrace.hint_control();
CREATE TRIGGER hint_control_all AFTER TRUNCATE ON headrace.api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION headrace.hint_control();
CREATE TRIGGER hint_control AFTER INSERT OR DELETE OR UPDATE OF slug, signing_secret ON headrace.environments
    FOR EACH ROW EXECUTE FUNCTION headrace.hint_control();
