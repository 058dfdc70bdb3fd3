-- Locks runs in one order, whatever their status: a statement that follows sees what a transaction that was waited for
-- made of them. Index: runs_pkey.
SELECT r.id FROM headrace.runs AS r
WHERE r.environment_id = $1::integer AND r.id = ANY($2::uuid[]) ORDER BY r.id FOR UPDATE
