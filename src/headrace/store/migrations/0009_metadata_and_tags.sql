-- Metadata that others change as well, tags that are added later, and lists of runs by tag.

ALTER TABLE headrace.runs
    ADD COLUMN metadata_write bigint; -- of the run's own changes that are no points: the last one that is written, by attempt and moment

-- Which runs have a tag, in the order of a list. An index, kept by triggers from options -> tags, where the tags stand: a GIN
-- index could not give a page in order (it would read all runs of a tag), and would be written anew with each change of status.
CREATE TABLE headrace.run_tags (
    environment_id integer NOT NULL,
    tag text COLLATE "C" NOT NULL,
    run_id uuid NOT NULL,
    PRIMARY KEY (environment_id, tag, run_id)
);

CREATE FUNCTION headrace.index_tags() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        DELETE FROM headrace.run_tags AS t
        WHERE t.environment_id = OLD.environment_id AND t.run_id = OLD.id
            AND t.tag = ANY(ARRAY(SELECT jsonb_array_elements_text(OLD.options -> 'tags')));
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO headrace.run_tags (environment_id, tag, run_id)
        SELECT NEW.environment_id, g.tag, NEW.id FROM jsonb_array_elements_text(NEW.options -> 'tags') AS g (tag)
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END
$$;

-- a run without tags costs no call
CREATE TRIGGER runs_tags_insert AFTER INSERT ON headrace.runs
FOR EACH ROW WHEN (NEW.options ? 'tags') EXECUTE FUNCTION headrace.index_tags();
CREATE TRIGGER runs_tags_update AFTER UPDATE OF options ON headrace.runs
FOR EACH ROW WHEN (OLD.options -> 'tags' IS DISTINCT FROM NEW.options -> 'tags') EXECUTE FUNCTION headrace.index_tags();
CREATE TRIGGER runs_tags_delete AFTER DELETE ON headrace.runs
FOR EACH ROW WHEN (OLD.options ? 'tags') EXECUTE FUNCTION headrace.index_tags();

INSERT INTO headrace.run_tags (environment_id, tag, run_id)
SELECT DISTINCT r.environment_id, g.tag, r.id
FROM headrace.runs AS r CROSS JOIN LATERAL jsonb_array_elements_text(r.options -> 'tags') AS g (tag)
WHERE r.options ? 'tags';
