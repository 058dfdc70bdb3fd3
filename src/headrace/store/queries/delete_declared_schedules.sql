-- Schedules that the code of their tasks declares no more. Index: schedules_pkey.
DELETE FROM headrace.schedules WHERE environment_id = $1::integer AND id = ANY($2::uuid[]) AND declared
