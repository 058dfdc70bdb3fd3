-- Points whose failure ended an attempt: the next one does them again. Index: journal_pkey.
DELETE FROM headrace.journal AS j
USING (SELECT $1::integer AS environment_id, u.* FROM unnest($2::uuid[], $3::text[]) AS u (run_id, point) OFFSET 0) AS w
WHERE j.environment_id = w.environment_id AND j.run_id = w.run_id AND j.point = w.point
