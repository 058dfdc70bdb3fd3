-- Nobody can come with this tree any more. Index: arrivals_pkey.
DELETE FROM headrace.arrivals WHERE move_id = $1::uuid
