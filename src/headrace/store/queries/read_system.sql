-- The number that a cluster of PostgreSQL was given when it was made; a copy of its files has the same.
SELECT system_identifier AS system FROM pg_control_system()
