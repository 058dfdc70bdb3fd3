-- Batches that arrive. No index but those that are written to.
INSERT INTO headrace.batches
SELECT r.* FROM unnest($1::text[]) AS u (content), jsonb_populate_record(NULL::headrace.batches, u.content::jsonb) AS r
