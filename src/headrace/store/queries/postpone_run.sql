-- Puts a delayed run off, never to an earlier time, and where the latest word counts ($4) gives it that payload and those
-- options. The caller holds the run (hold_debounced). Indexes: runs_pkey, environments_pkey.
UPDATE headrace.runs AS r
SET delayed_until = greatest(r.delayed_until, t.until),
    ready_at = CASE WHEN r.parked IS NULL
        THEN greatest(t.now - make_interval(secs => coalesce((r.options ->> 'priority')::float8, 0)), r.delayed_until, t.until)
        ELSE r.ready_at END,
    parked = CASE WHEN r.parked IS NOT NULL
        THEN greatest(t.now - make_interval(secs => coalesce((r.options ->> 'priority')::float8, 0)), r.delayed_until, t.until) END,
    expires_at = headrace.run_expiry(greatest(r.delayed_until, t.until), (r.options ->> 'ttl')::float8, t.default_ttl, t.max_ttl),
    payload = CASE WHEN $4::boolean THEN $5::bytea ELSE r.payload END,
    payload_type = CASE WHEN $4::boolean THEN $6::text ELSE r.payload_type END,
    options = CASE WHEN $4::boolean THEN (r.options - ARRAY['payloadType', 'payloadSize']) || $7::text::jsonb ELSE r.options END,
    metadata = CASE WHEN $4::boolean AND $7::text::jsonb ? 'metadata' THEN NULL ELSE r.metadata END,
    updated_at = t.now
FROM (
    SELECT headrace.clock() AS now, headrace.clock() + make_interval(secs => $3::float8) AS until, e.default_ttl, e.max_ttl
    FROM headrace.environments AS e WHERE e.id = $1::integer
) AS t
WHERE r.environment_id = $1::integer AND r.id = $2::uuid
