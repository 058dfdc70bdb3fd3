-- A hint to whoever listens. Sent by itself, never within a transaction that writes runs.
SELECT pg_notify($1::text, $2::text)
