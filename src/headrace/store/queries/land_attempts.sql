-- Ended attempts that arrive. No index but those that are written to.
INSERT INTO headrace.attempts
SELECT r.* FROM unnest($1::text[]) AS u (content), jsonb_populate_record(NULL::headrace.attempts, u.content::jsonb) AS r
