-- The parts that an action has in the stores $3: of the runs $4, of which $5 are the stores, or by its filter ($4: NULL).
-- Index: bulk_parts_pkey.
INSERT INTO headrace.bulk_parts (environment_id, action_id, store, run_ids)
SELECT $1::integer, $2::uuid, s.store, CASE WHEN $4::uuid[] IS NOT NULL THEN ARRAY(
    SELECT m.run_id FROM unnest($4::uuid[], $5::text[]) AS m (run_id, store) WHERE m.store = s.store ORDER BY m.run_id
) END
FROM unnest($3::text[]) AS s (store)
