-- Deletes mirrors that the caller holds and nobody can ask any more. A statement of its own after they were taken: who had held one
-- before, to wait for it, has committed, and is seen. Indexes: mirrors_pkey, journal_foreign, journal_waiters, runs_pkey,
-- batch_aliases_by_run.
DELETE FROM headrace.mirrors AS m
USING (SELECT u.* FROM unnest($1::integer[], $2::uuid[], $3::text[]) AS u (environment_id, id, kind) OFFSET 0) AS u
WHERE m.environment_id = u.environment_id AND m.id = u.id AND m.kind = u.kind
    AND NOT headrace.mirror_serves(u.environment_id, u.id, u.kind)
RETURNING m.id
