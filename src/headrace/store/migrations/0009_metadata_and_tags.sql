-- Metadata that others change as well, tags that are added later, and lists of runs by tag.

ALTER TABLE headrace.runs
    ADD COLUMN metadata_write bigint; -- of the run's own changes that are no points: the last one that is written, by attempt and moment

-- serves lists of runs by tag; runs without tags are not in it
CREATE INDEX runs_by_tag ON headrace.runs USING gin ((options -> 'tags')) WHERE options -> 'tags' IS NOT NULL;
