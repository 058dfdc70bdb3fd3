-- Environments are as home has them ($1, JSON rows). Returns those that were not. Index: environments_pkey.
INSERT INTO headrace.environments AS e (
    id, slug, signing_secret, created_at, concurrency_limit, default_ttl, max_ttl, paused_at
)
SELECT h.id, h.slug, h.signing_secret, h.created_at, h.concurrency_limit, h.default_ttl, h.max_ttl, h.paused_at
FROM jsonb_populate_recordset(NULL::headrace.environments, $1::jsonb) AS h ORDER BY h.id
ON CONFLICT (id) DO UPDATE
SET slug = EXCLUDED.slug, signing_secret = EXCLUDED.signing_secret, concurrency_limit = EXCLUDED.concurrency_limit,
    default_ttl = EXCLUDED.default_ttl, max_ttl = EXCLUDED.max_ttl, paused_at = EXCLUDED.paused_at
WHERE (e.slug, e.signing_secret, e.concurrency_limit, e.default_ttl, e.max_ttl, e.paused_at)
    IS DISTINCT FROM (EXCLUDED.slug, EXCLUDED.signing_secret, EXCLUDED.concurrency_limit, EXCLUDED.default_ttl,
        EXCLUDED.max_ttl, EXCLUDED.paused_at)
RETURNING e.id
