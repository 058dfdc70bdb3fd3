-- Items that stand for other runs that arrive. No index but those that are written to.
INSERT INTO headrace.batch_aliases
SELECT r.* FROM unnest($1::text[]) AS u (content), jsonb_populate_record(NULL::headrace.batch_aliases, u.content::jsonb) AS r
