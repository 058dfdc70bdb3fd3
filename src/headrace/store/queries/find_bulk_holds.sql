-- Whether a bulk action that is under way here may still be for runs of a tree: not all that it is for is written down, or the
-- turn of one of them has not come. Indexes: bulk_actions_pending, move_members_pkey, bulk_members_pkey.
SELECT a.id FROM headrace.bulk_actions AS a
WHERE a.environment_id = $2::integer AND a.status = 'PENDING' AND (
    a.selected_at IS NULL OR EXISTS (
        SELECT FROM headrace.move_members AS w
        JOIN headrace.bulk_members AS m ON m.environment_id = $2::integer AND m.action_id = a.id AND m.run_id = w.id
        WHERE w.move_id = $1::uuid AND w.kind = 'run' AND m.succeeded IS NULL
    )
)
LIMIT 1
