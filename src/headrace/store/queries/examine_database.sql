-- What `headrace doctor` asks of the server itself. Reads PostgreSQL's own views and nothing of ours.
SELECT
    current_setting('server_version_num')::integer AS version_number,
    current_setting('server_version') AS version,
    current_setting('autovacuum') = 'on' AS autovacuum,
    current_setting('fsync') = 'on' AND current_setting('full_page_writes') = 'on' AS durable,
    current_setting('max_connections')::integer AS max_connections,
    extract(epoch FROM clock_timestamp())::float8 AS clock,
    -- a transaction that is still open, prepared or not, keeps rows that died after it began from being cleaned up
    greatest(
        (
            SELECT max(extract(epoch FROM clock_timestamp() - a.xact_start))::float8 FROM pg_stat_activity AS a
            WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
        ),
        (SELECT max(extract(epoch FROM clock_timestamp() - p.prepared))::float8 FROM pg_prepared_xacts AS p),
        0
    ) AS oldest_transaction,
    -- a slot that nobody reads from does the same, and has no end
    (SELECT count(*)::integer FROM pg_replication_slots AS s WHERE NOT s.active) AS idle_slots,
    pg_is_in_recovery() AS read_only
