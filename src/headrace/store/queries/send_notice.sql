-- A hint to whoever listens. Sent by itself, never within a transaction that writes runs. Its commit need not wait for the
-- disk: a hint that a crash swallows is found by polling.
SELECT set_config('synchronous_commit', 'off', true), pg_notify($1::text, $2::text)
