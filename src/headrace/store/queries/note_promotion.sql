-- A version has become the current one of some task. Index: versions_environment_id_version_key.
UPDATE headrace.versions SET promoted_at = headrace.clock() WHERE environment_id = $1::integer AND version = $2::text
