-- What `headrace doctor` asks of our own tables. Index: workers_not_emptied; the keys are few.
SELECT
    (
        SELECT coalesce(sum(t.n_dead_tup), 0)::bigint FROM pg_stat_user_tables AS t WHERE t.schemaname = 'headrace'
    ) AS dead_rows,
    (
        SELECT coalesce(sum(t.n_live_tup), 0)::bigint FROM pg_stat_user_tables AS t WHERE t.schemaname = 'headrace'
    ) AS live_rows,
    (
        SELECT count(*)::integer FROM headrace.workers AS w
        WHERE w.emptied_at IS NULL AND w.ended_at IS NULL AND w.lease_until > headrace.clock()
    ) AS workers,
    (SELECT count(*)::integer FROM headrace.api_keys AS k WHERE k.revoked_at IS NULL) AS keys
