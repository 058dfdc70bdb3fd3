-- A new bulk action; with $5 its members are still to be found, where $7 says that any may be in this store. No row where the environment has $6 of its kind under way.
-- Indexes: bulk_actions_pkey, bulk_actions_pending.
INSERT INTO headrace.bulk_actions (environment_id, id, kind, name, filter, selected_at, created_at)
SELECT $1::integer, $2::uuid, $3::headrace.bulk_kind, $4::text, $5::text::jsonb,
    CASE WHEN $5::text IS NULL OR NOT $7::boolean THEN headrace.clock() END, headrace.clock()
WHERE $6::integer IS NULL OR $6::integer > (
    SELECT count(*) FROM headrace.bulk_actions AS o
    WHERE o.status = 'PENDING' AND o.environment_id = $1::integer AND o.kind = $3::headrace.bulk_kind
)
RETURNING id
