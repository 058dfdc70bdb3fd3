-- How far all batches of a database are, taken together. `headrace demo` shows it, on a database with a batch or two.
SELECT
    coalesce(sum(b.accepted), 0)::bigint AS accepted, coalesce(sum(b.settled), 0)::bigint AS settled
FROM headrace.batches AS b
