-- Items whose idempotency key led to a run that was there before. The caller watches those runs first (watch_runs) and
-- says which of them have ended, so that an end is either seen here or sees this.
WITH inserted AS (
    INSERT INTO headrace.batch_aliases (environment_id, batch_id, batch_index, run_id, settled)
    SELECT $1::integer, $2::uuid, i.index, i.run_id, i.ended
    FROM unnest($3::integer[], $4::uuid[], $5::boolean[], $6::boolean[]) AS i (index, run_id, ended, succeeded)
)
UPDATE headrace.batches AS b
SET accepted = b.accepted + t.accepted, aliased = b.aliased + t.accepted, settled = b.settled + t.settled,
    succeeded = b.succeeded + t.succeeded, highest_index = greatest(b.highest_index, t.highest_index)
FROM (
    SELECT count(*)::integer AS accepted, (count(*) FILTER (WHERE i.ended))::integer AS settled,
        (count(*) FILTER (WHERE i.succeeded))::integer AS succeeded, max(i.index) AS highest_index
    FROM unnest($3::integer[], $5::boolean[], $6::boolean[]) AS i (index, ended, succeeded)
) AS t
WHERE b.environment_id = $1::integer AND b.id = $2::uuid
