-- A schedule goes; the runs that it made stay. Index: schedules_pkey.
DELETE FROM headrace.schedules WHERE environment_id = $1::integer AND id = $2::uuid
