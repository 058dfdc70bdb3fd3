-- Which of these runs have a journal, and the task, queue and kind of lane of each: where they go on, they go on in a lane of their
-- version. One that is locked to a version is there already. Indexes: runs_pkey, journal_pkey.
SELECT r.id, l.task, l.queue, l.kind::text AS kind
FROM headrace.runs AS r JOIN headrace.lanes AS l ON l.id = r.lane_id
WHERE r.environment_id = $1::integer AND r.id = ANY($2::uuid[]) AND NOT l.locked
    AND EXISTS (SELECT FROM headrace.journal AS j WHERE j.environment_id = r.environment_id AND j.run_id = r.id)
