-- It was canceled. Index: journal_pkey.
UPDATE headrace.journal AS j SET canceling = false
FROM (SELECT $1::integer AS environment_id, u.* FROM unnest($2::uuid[], $3::text[]) AS u (run_id, point) OFFSET 0) AS w
WHERE j.environment_id = w.environment_id AND j.run_id = w.run_id AND j.point = w.point
