-- Runs were canceled: what they wait for is to be canceled too, unless it was said otherwise. Index: journal_pkey.
UPDATE headrace.journal AS j SET canceling = true
WHERE j.environment_id = $1::integer AND j.run_id = ANY($2::uuid[]) AND j.pending AND j.cascade AND j.kind IN ('run', 'batch', 'progress')
RETURNING j.run_id
