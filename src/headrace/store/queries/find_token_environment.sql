-- The environment of a token of which the id alone is known: one probe an environment, of which there are few. The OFFSET
-- keeps the planner from turning the probes into a scan of all tokens. Index: tokens_pkey.
SELECT e.id, e.slug, e.signing_secret
FROM headrace.environments AS e
CROSS JOIN LATERAL (
    SELECT FROM headrace.tokens AS t WHERE t.environment_id = e.id AND t.id = $1::uuid OFFSET 0
) AS t
LIMIT 1
