-- No statement of this transaction waits for a lock for longer than $1 seconds: then it fails, and with it the transaction.
SELECT set_config('lock_timeout', ceil($1::float8 * 1000)::text, true)
