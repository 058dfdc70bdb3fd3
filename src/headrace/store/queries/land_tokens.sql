-- Tokens that arrive. No index but those that are written to.
INSERT INTO headrace.tokens
SELECT r.* FROM unnest($1::text[]) AS u (content), jsonb_populate_record(NULL::headrace.tokens, u.content::jsonb) AS r
