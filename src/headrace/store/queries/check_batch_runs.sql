-- What `headrace demo` checks of a batch's runs. Reads the whole table, on purpose: it finds a stray run wherever it is.
SELECT
    count(*)::integer AS runs,
    count(DISTINCT r.batch_index)::integer AS indexes,
    coalesce(min(r.batch_index), -1) AS lowest,
    coalesce(max(r.batch_index), -1) AS highest,
    (count(*) FILTER (WHERE r.finished_at IS NULL))::integer AS unfinished,
    (count(*) FILTER (WHERE r.attempt > 1))::integer AS taken_up_again,
    (SELECT count(*)::integer FROM headrace.runs AS other WHERE other.batch_id IS DISTINCT FROM $1) AS strays
FROM headrace.runs AS r
WHERE r.batch_id = $1
