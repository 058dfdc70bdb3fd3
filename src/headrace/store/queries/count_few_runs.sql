-- How many runs a way in to a list would have to sort (see list_runs), counted to $4. Indexes: runs_by_tag; runs_ready, runs_held,
-- runs_waiting.
SELECT count(*)::integer AS found FROM (
    (
        SELECT FROM headrace.runs AS r
        WHERE $1::text = 'tags' AND r.options -> 'tags' IS NOT NULL AND r.options -> 'tags' ?| $2::text[] LIMIT $4::integer
    ) UNION ALL (
        SELECT FROM headrace.runs AS r
        WHERE $1::text = 'open' AND 'QUEUED' = ANY($3::text[]) AND r.status = 'QUEUED' LIMIT $4::integer
    ) UNION ALL (
        SELECT FROM headrace.runs AS r
        WHERE $1::text = 'open' AND 'EXECUTING' = ANY($3::text[]) AND r.status = 'EXECUTING' LIMIT $4::integer
    ) UNION ALL (
        SELECT FROM headrace.runs AS r
        WHERE $1::text = 'open' AND 'WAITING' = ANY($3::text[]) AND r.status = 'WAITING' LIMIT $4::integer
    )
    LIMIT $4::integer
) AS f
