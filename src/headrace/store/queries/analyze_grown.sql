-- Looks again at tables that have grown from next to nothing since PostgreSQL looked last (as find_due_work says): a statement that was
-- prepared while they were empty keeps a plan that scans them whole until it does, and by itself it does so once a minute. Each table
-- comes to this once; one that somebody else is looking at is left to him.
DO $$
DECLARE
    grown name;
BEGIN
    FOR grown IN
        SELECT c.relname FROM pg_class AS c
        WHERE c.relnamespace = 'headrace'::regnamespace AND c.relkind = 'r' AND c.relpages < 128
            AND pg_relation_size(c.oid) >= 128 * current_setting('block_size')::bigint AND pg_has_role(c.relowner, 'USAGE')
    LOOP
        EXECUTE format('ANALYZE (SKIP_LOCKED) headrace.%I', grown);
    END LOOP;
END
$$
