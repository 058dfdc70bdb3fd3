-- Runs that were imported from another installation, under the ids that they had there. All of them go to one store.

-- Read at home. The guard of ownership lets their rows in as it lets in what was moved: with runs.moved. So they can be moved on,
-- and the store that is declared for them need not be told so.
ALTER TABLE headrace.identity
    ADD COLUMN legacy text CHECK (legacy ~ '^[0-9a-z]$'),
    ADD COLUMN imported boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN headrace.identity.legacy IS 'At home: the key of the store that imported runs are made in. NULL: none was declared, so home.';
COMMENT ON COLUMN headrace.identity.imported IS 'At home: runs were imported there, so it stays where they are looked for first.';
