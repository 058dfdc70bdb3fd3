-- What a version of the code declared once, and does not any more. Index: declarations_pkey.
DELETE FROM headrace.declarations
WHERE environment_id = $1::integer AND version = $2::text AND task = ANY($3::text[])
