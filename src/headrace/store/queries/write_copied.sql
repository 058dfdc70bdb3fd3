-- This store has what home's control plane was at a mark ($1, $2). $3: and what executes is to be counted once more. One row.
UPDATE headrace.control SET copied = $1::bigint, copied_mark = $2::uuid, recounting = recounting OR $3::boolean
