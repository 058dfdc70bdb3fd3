-- What runs that were canceled still waited for, to be canceled with them; a bounded number. Index: journal_canceling.
SELECT j.environment_id, j.run_id, j.point, j.kind, j.target FROM headrace.journal AS j WHERE j.canceling
ORDER BY j.environment_id, j.run_id LIMIT $1::integer
