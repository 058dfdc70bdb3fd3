-- Points of journals that arrive. No index but those that are written to.
INSERT INTO headrace.journal
SELECT r.* FROM unnest($1::text[]) AS u (content), jsonb_populate_record(NULL::headrace.journal, u.content::jsonb) AS r
