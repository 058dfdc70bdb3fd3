-- What a store has of open runs and what it owns at all, each counted to $1. Indexes: runs_ready, runs_held, runs_waiting; of
-- the tables the first pages.
SELECT
    (
        SELECT count(*)::integer FROM (
            (SELECT FROM headrace.runs AS r WHERE r.status = 'QUEUED' LIMIT $1::integer)
            UNION ALL (SELECT FROM headrace.runs AS r WHERE r.status = 'EXECUTING' LIMIT $1::integer)
            UNION ALL (SELECT FROM headrace.runs AS r WHERE r.status = 'WAITING' LIMIT $1::integer)
            LIMIT $1::integer
        ) AS f
    ) AS open_runs,
    (SELECT count(*)::integer FROM (SELECT FROM headrace.runs LIMIT $1::integer) AS f) AS runs,
    (SELECT count(*)::integer FROM (SELECT FROM headrace.batches LIMIT $1::integer) AS f) AS batches,
    (SELECT count(*)::integer FROM (SELECT FROM headrace.tokens LIMIT $1::integer) AS f) AS tokens,
    (SELECT count(*)::integer FROM (SELECT FROM headrace.outbox LIMIT $1::integer) AS f) AS mail
