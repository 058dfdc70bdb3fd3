-- Registering a worker and closing the lanes of versions exclude each other.
SELECT pg_advisory_xact_lock(7305, 2)
