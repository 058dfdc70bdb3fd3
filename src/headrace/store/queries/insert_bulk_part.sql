-- The part of a bulk action in this store, if it is not there: PENDING ($6), or ABORTED, by which it can't be made any more.
-- $7: NULL where it is made at once; it is of the runs that are there now. Not made where the environment is not known here,
-- because then it has no runs here either. Indexes: environments_pkey, bulk_actions_pkey.
INSERT INTO headrace.bulk_actions (environment_id, id, kind, name, filter, status, selected_at, created_at, completed_at)
SELECT e.id, $2::uuid, $3::headrace.bulk_kind, $4::text, $5::text::jsonb,
    CASE WHEN $6::boolean THEN 'PENDING'::headrace.bulk_status ELSE 'ABORTED'::headrace.bulk_status END,
    CASE WHEN $5::text IS NULL THEN headrace.clock() END, coalesce($7::timestamptz, headrace.clock()),
    CASE WHEN NOT $6::boolean THEN headrace.clock() END
FROM headrace.environments AS e WHERE e.id = $1::integer
ON CONFLICT (environment_id, id) DO NOTHING
RETURNING id
