-- What was seen of a part of a bulk action whose row the transaction holds. Looks may come out of turn: counts only grow, and
-- what is over stays so. Index: bulk_parts_pkey.
UPDATE headrace.bulk_parts AS p
SET status = $4::headrace.bulk_status, selected = p.selected OR $5::boolean, total = greatest(p.total, $6::integer),
    succeeded = greatest(p.succeeded, $7::integer), failed = greatest(p.failed, $8::integer)
WHERE p.environment_id = $1::integer AND p.action_id = $2::uuid AND p.store = $3::text AND p.status = 'PENDING'
    AND (p.status, p.selected, p.total, p.succeeded, p.failed)
        IS DISTINCT FROM ($4::headrace.bulk_status, $5::boolean, $6::integer, $7::integer, $8::integer)
