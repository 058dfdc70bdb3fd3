-- Lanes that hold runs of this version of the code take part in claims again; those of a batch are its seal's to open, and hold
-- nothing where they were closed after it. Index: lanes_by_version.
UPDATE headrace.lanes SET open = true
WHERE environment_id = $1::integer AND version = $2::text AND batch_id IS NULL AND NOT open
