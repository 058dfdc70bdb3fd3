-- Makes this empty database the store $1 (key) named $2 of the fleet $3.
SELECT headrace.become_store($1::text, $2::text, $3::uuid)
