-- Holds the lines of order keys ($1: lane and key as one text each) to the end of the transaction, so that the numbers of a key
-- are in the order of their commits: a run that commits late can't come before one that was seen. 256 locks stand for all keys:
-- as many as there are keys would fill the lock table. A process that stands still while it holds one loses it with its session.
WITH patience AS MATERIALIZED (SELECT set_config('idle_in_transaction_session_timeout', '30s', true) AS given)
SELECT pg_advisory_xact_lock(7309, l.line), p.given
FROM patience AS p CROSS JOIN (SELECT DISTINCT hashtext(k.name) & 255 AS line FROM unnest($1::text[]) AS k (name) ORDER BY 1) AS l
