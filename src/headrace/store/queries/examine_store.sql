-- What a start asks of a database that is to be a store. Reads PostgreSQL's own settings and nothing of ours. Times in ms.
SELECT
    current_setting('server_version_num')::integer AS version_number,
    current_setting('server_version') AS version,
    current_database()::text AS database,
    pg_backend_pid() AS pid,
    pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean AS read_only,
    current_setting('default_transaction_isolation') AS isolation,
    current_setting('server_encoding') AS encoding,
    current_setting('max_connections')::integer AS max_connections,
    (
        SELECT coalesce(min(s.setting::bigint), 0) FROM pg_settings AS s
        WHERE s.name IN ('statement_timeout', 'transaction_timeout')
            AND s.setting::bigint > 0
    ) AS shortest_timeout,
    extract(epoch FROM clock_timestamp())::float8 AS clock,
    -- on some managed services, and on what is not quite PostgreSQL, nobody may ask
    coalesce(has_function_privilege(to_regprocedure('pg_control_system()')::oid, 'EXECUTE'), false) AS has_system,
    to_regclass('public.headrace_migrations') IS NOT NULL AS migrated,
    to_regclass('headrace.identity') IS NOT NULL AS has_identity
