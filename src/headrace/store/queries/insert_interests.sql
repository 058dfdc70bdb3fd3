-- Another store ($4) wants to know the ends of these runs or tokens ($2 says which), as far as they have not ended. The
-- transaction holds them: who ends one comes later, and finds this. Indexes: interests_pkey, runs_pkey, tokens_pkey.
INSERT INTO headrace.interests (environment_id, target_id, store)
SELECT $1::integer, w.id, $4::text
FROM unnest($3::uuid[]) AS w (id)
WHERE coalesce(
    CASE $2::text
        WHEN 'run' THEN (
            SELECT r.finished_at IS NULL FROM headrace.runs AS r WHERE r.environment_id = $1::integer AND r.id = w.id
        )
        ELSE (SELECT t.status = 'WAITING' FROM headrace.tokens AS t WHERE t.environment_id = $1::integer AND t.id = w.id)
    END,
    false
)
ON CONFLICT DO NOTHING
