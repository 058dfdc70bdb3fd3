-- Lanes that hold runs of this version of the code take part in claims again. Index: lanes_by_version.
UPDATE headrace.lanes SET open = true WHERE environment_id = $1::integer AND version = $2::text AND NOT open
