-- The order in which a run's code was told outcomes: a replay tells it them in the same order. Index: journal_pkey.
UPDATE headrace.journal AS j SET seen = s.seen
FROM (SELECT $1::integer AS environment_id, $2::uuid AS run_id, u.* FROM unnest($3::text[], $4::integer[]) AS u (point, seen) OFFSET 0) AS s
WHERE j.environment_id = s.environment_id AND j.run_id = s.run_id AND j.point = s.point
