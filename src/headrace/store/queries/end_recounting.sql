-- What executes was counted under what was copied up to a mark ($1). One row.
UPDATE headrace.control SET recounting = false WHERE copied_mark = $1::uuid
