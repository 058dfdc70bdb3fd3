-- Whether this transaction is the one that sweeps. Held to its end, so that it survives no process and no pooler.
SELECT pg_try_advisory_xact_lock(7305, 1) AS elected
