-- Members of a bulk action whose row the transaction holds, and how far it has got ($4; NULL: all are there). One that is a
-- member already stays one. Indexes: bulk_members_pkey, bulk_actions_pkey.
WITH added AS (
    INSERT INTO headrace.bulk_members (environment_id, action_id, run_id)
    SELECT $1::integer, $2::uuid, m.run_id FROM unnest($3::uuid[]) AS m (run_id)
    ON CONFLICT (environment_id, action_id, run_id) DO NOTHING
    RETURNING run_id
)
UPDATE headrace.bulk_actions AS a
SET total = a.total + (SELECT count(*) FROM added), cursor = coalesce($4::uuid, a.cursor),
    selected_at = CASE WHEN $4::uuid IS NULL THEN coalesce(a.selected_at, headrace.clock()) END
WHERE a.environment_id = $1::integer AND a.id = $2::uuid
RETURNING a.total
