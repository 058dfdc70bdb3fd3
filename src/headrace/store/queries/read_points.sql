-- Of these points, (run, point), those that are done, with their outcomes; of runs that execute: one that was canceled is not
-- to be told that its children were, too. Indexes: journal_pkey, runs_pkey, batches_pkey, tokens_pkey.
SELECT o.*
FROM (SELECT $1::integer AS environment_id, u.* FROM unnest($2::uuid[], $3::text[]) AS u (run_id, point) OFFSET 0) AS w
JOIN headrace.point_outcomes AS o
    ON o.environment_id = w.environment_id AND o.run_id = w.run_id AND o.point = w.point AND NOT o.pending
WHERE (
    SELECT r.status FROM headrace.runs AS r WHERE r.environment_id = o.environment_id AND r.id = o.run_id
) = 'EXECUTING'
