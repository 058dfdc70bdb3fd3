-- Holds the mark $1, an advisory lock, to the end of the transaction; false where somebody has it, on this very database.
SELECT pg_try_advisory_xact_lock($1::bigint) AS held
