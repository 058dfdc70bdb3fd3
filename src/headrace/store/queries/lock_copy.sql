-- One copies the control plane to this store at a time, from before it reads home's to its commit: so none can write what is older
-- than what is there. A process that stands still for longer than $1 seconds in it loses it with its session.
SELECT pg_advisory_xact_lock(7305, 3), set_config('idle_in_transaction_session_timeout', ceil($1::float8 * 1000)::text, true)
