-- A bulk action that is under way, held to the end of the transaction: it is not aborted before. Index: bulk_actions_pkey.
SELECT a.environment_id, a.id, a.kind, a.filter::text AS filter, a.cursor, a.selected_at, a.created_at
FROM headrace.bulk_actions AS a
WHERE a.environment_id = $1::integer AND a.id = $2::uuid AND a.status = 'PENDING'
FOR UPDATE
