-- Claims of dev sessions that arrive. No index but those that are written to.
INSERT INTO headrace.dev_claims
SELECT r.* FROM unnest($1::text[]) AS u (content), jsonb_populate_record(NULL::headrace.dev_claims, u.content::jsonb) AS r
