-- Ids of runs that have any of the tags, within the open interval ($3, $4), the newest first: at most $5. Each tag gives its
-- newest, in the order of the index, so a page costs the same however many runs have the tag. Index: run_tags_pkey.
SELECT DISTINCT t.run_id FROM unnest($2::text[]) AS wanted (tag) CROSS JOIN LATERAL (
    SELECT t.run_id FROM headrace.run_tags AS t
    WHERE t.environment_id = $1::integer AND t.tag = wanted.tag AND t.run_id > $3::uuid AND t.run_id < $4::uuid
    ORDER BY t.run_id DESC LIMIT $5::integer
) AS t
ORDER BY t.run_id DESC LIMIT $5::integer
