-- Many stores: what the home store says of environments, queues, tasks and versions is copied to the others, whose statements
-- join with it. A store is as home is where the mark that it copied is home's.

CREATE TABLE headrace.control (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch      bigint NOT NULL DEFAULT 0,              -- how often the control plane has changed
    mark       uuid NOT NULL DEFAULT gen_random_uuid(), -- a new one with each change: it can't come again, as epochs can after a restore
    copied     bigint,                                 -- in a store other than home: home's epoch that it has
    copied_mark uuid,                                  -- and home's mark
    recounting boolean NOT NULL DEFAULT false          -- what executes is to be counted once more under what was copied
);
COMMENT ON TABLE headrace.control IS 'How far the control plane is: one row. It changes with every change of an environment, a queue, a task or a version.';

INSERT INTO headrace.control DEFAULT VALUES;

-- Deferred, so that the row, which all changes share, is locked for no longer than a commit takes, and after all others. Once a
-- transaction. In a store other than home nothing is noted: what it has is a copy.
CREATE FUNCTION headrace.note_control_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(current_setting('headrace.control_noted', true), '') <> 'yes' THEN
        PERFORM set_config('headrace.control_noted', 'yes', true);
        UPDATE headrace.control SET epoch = epoch + 1, mark = gen_random_uuid()
        WHERE EXISTS (SELECT FROM headrace.identity WHERE key = '0');
    END IF;
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER note_control AFTER INSERT OR DELETE ON headrace.environments
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION headrace.note_control_change();
CREATE CONSTRAINT TRIGGER note_control_update AFTER UPDATE ON headrace.environments
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD IS DISTINCT FROM NEW) EXECUTE FUNCTION headrace.note_control_change();

CREATE CONSTRAINT TRIGGER note_control AFTER INSERT OR DELETE ON headrace.queues
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION headrace.note_control_change();
CREATE CONSTRAINT TRIGGER note_control_update AFTER UPDATE ON headrace.queues
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD IS DISTINCT FROM NEW) EXECUTE FUNCTION headrace.note_control_change();

-- A worker that starts again says the same again: that is no change.
CREATE CONSTRAINT TRIGGER note_control AFTER INSERT OR DELETE ON headrace.tasks
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION headrace.note_control_change();
CREATE CONSTRAINT TRIGGER note_control_update AFTER UPDATE ON headrace.tasks
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (
    (OLD.queue, OLD.max_attempts, OLD.skips_failed, OLD.coalesces, OLD.current_version)
    IS DISTINCT FROM (NEW.queue, NEW.max_attempts, NEW.skips_failed, NEW.coalesces, NEW.current_version)
) EXECUTE FUNCTION headrace.note_control_change();

CREATE CONSTRAINT TRIGGER note_control AFTER INSERT OR DELETE ON headrace.versions
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION headrace.note_control_change();
CREATE CONSTRAINT TRIGGER note_control_update AFTER UPDATE ON headrace.versions
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.promoted_at IS DISTINCT FROM NEW.promoted_at)
EXECUTE FUNCTION headrace.note_control_change();
CREATE CONSTRAINT TRIGGER note_control AFTER INSERT OR DELETE ON headrace.version_tasks
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION headrace.note_control_change();
