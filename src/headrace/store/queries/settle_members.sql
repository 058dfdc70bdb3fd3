-- How it went with members of a bulk action whose row the transaction holds; it is over when no member is left,
-- here or in another store. Indexes: bulk_members_pkey, bulk_members_open, bulk_actions_pkey, bulk_parts_open.
WITH written AS (
    UPDATE headrace.bulk_members AS m
    SET succeeded = d.error IS NULL, result_id = d.result_id, error = d.error
    FROM unnest($3::uuid[], $4::uuid[], $5::text[]) AS d (run_id, result_id, error)
    WHERE m.environment_id = $1::integer AND m.action_id = $2::uuid AND m.run_id = d.run_id AND m.succeeded IS NULL
    RETURNING m.succeeded
),
tally AS (
    SELECT count(*) FILTER (WHERE w.succeeded) AS succeeded, count(*) FILTER (WHERE NOT w.succeeded) AS failed,
        NOT EXISTS (
            SELECT FROM headrace.bulk_parts AS p
            WHERE p.environment_id = $1::integer AND p.action_id = $2::uuid AND p.status = 'PENDING'
        ) AS alone
    FROM written AS w
)
UPDATE headrace.bulk_actions AS a
SET succeeded = a.succeeded + t.succeeded, failed = a.failed + t.failed,
    status = CASE
        WHEN t.alone AND a.selected_at IS NOT NULL AND a.succeeded + t.succeeded + a.failed + t.failed = a.total
        THEN 'COMPLETED'::headrace.bulk_status ELSE a.status
    END,
    completed_at = CASE
        WHEN t.alone AND a.selected_at IS NOT NULL AND a.succeeded + t.succeeded + a.failed + t.failed = a.total THEN headrace.clock()
    END
FROM tally AS t
WHERE a.environment_id = $1::integer AND a.id = $2::uuid AND a.status = 'PENDING'
RETURNING a.status
