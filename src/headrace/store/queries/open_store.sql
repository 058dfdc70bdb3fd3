-- Undoes close_store: the store takes what is its own again.
DO $$
DECLARE
    guarded text;
BEGIN
    FOREACH guarded IN ARRAY ARRAY['runs', 'batches', 'tokens'] LOOP
        EXECUTE format('ALTER TABLE headrace.%I DROP CONSTRAINT IF EXISTS %I', guarded, guarded || '_removed');
    END LOOP;
END
$$
