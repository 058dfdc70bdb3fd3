-- The audit of batches: what their items say, and which batches are worth a look.

-- What the items of a batch of so many say, counted as the batch's own row counts them. An item that has no run (there is
-- none by construction) will never end: it counts as one that could not become a run. Indexes: runs_pkey, batch_aliases_pkey.
CREATE FUNCTION headrace.count_items(environment_id integer, batch_id uuid, run_count integer) RETURNS TABLE (
    missing integer, aliased integer, prefailed integer, settled integer, succeeded integer
) LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT m.missing::integer, a.found::integer, (r.prefailed + m.missing)::integer,
        least(r.settled + a.settled + m.missing, $3)::integer, (r.succeeded + a.succeeded)::integer
    FROM (
        SELECT count(*) AS found, count(o.finished_at) AS settled,
            count(*) FILTER (WHERE o.status = 'COMPLETED') AS succeeded,
            count(*) FILTER (WHERE o.status = 'SYSTEM_FAILURE' AND o.attempt = 0) AS prefailed
        FROM headrace.runs AS o
        WHERE o.environment_id = $1 AND o.batch_id = $2
            AND o.id BETWEEN headrace.item_run_id($2, 0) AND headrace.item_run_id($2, 2147483647)
    ) AS r,
    (
        SELECT count(*) AS found,
            count(*) FILTER (WHERE i.settled OR o.id IS NULL OR o.finished_at IS NOT NULL) AS settled,
            count(*) FILTER (WHERE o.status = 'COMPLETED') AS succeeded
        FROM headrace.batch_aliases AS i
        LEFT JOIN headrace.runs AS o ON o.environment_id = i.environment_id AND o.id = i.run_id
        WHERE i.environment_id = $1 AND i.batch_id = $2
    ) AS a,
    LATERAL (SELECT greatest($3 - r.found - a.found, 0) AS missing) AS m
$$;

-- serves the audit: what is sealed and has not ended, whatever the history
CREATE INDEX batches_open ON headrace.batches (id) WHERE sealed_at IS NOT NULL AND completed_at IS NULL;
