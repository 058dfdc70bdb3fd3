-- The oldest batch that may have got an item since $2: the ids of its runs begin with its own, so they are older than the runs
-- are. NULL where there is none. As text, by which
-- it can be asked from the index of seals alone; older versions have no min of uuid. Index: batches_by_seal.
SELECT least(
    (SELECT min(b.id::text COLLATE "C")::uuid FROM headrace.batches AS b WHERE b.environment_id = $1::integer AND b.sealed_at >= $2::timestamptz),
    (SELECT min(b.id::text COLLATE "C")::uuid FROM headrace.batches AS b WHERE b.environment_id = $1::integer AND b.sealed_at IS NULL)
) AS id
