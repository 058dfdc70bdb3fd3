-- Of runs that were put down just now, by this transaction, those that have something to go on with: an outcome that their
-- code was not told, or nothing at all that they wait for. A statement of its own, after the one that wrote WAITING: whoever
-- ended a target before that is seen here, whoever ends one later finds the run waiting. Index: journal_pkey.
SELECT w.id, o.pending IS NULL AS for_nothing
FROM unnest($2::uuid[]) AS w (id) CROSS JOIN LATERAL (
    SELECT max(j.pending::integer) AS pending, bool_or(NOT j.pending AND j.seen IS NULL) AS resolved
    FROM headrace.journal AS j
    WHERE j.environment_id = $1::integer AND j.run_id = w.id AND j.seen IS NULL
) AS o
WHERE o.resolved OR o.pending IS NULL
