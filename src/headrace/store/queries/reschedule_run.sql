-- Moves the time of a run that is delayed still, and with it the one until which it may start. A claim that comes at the same
-- moment either finds the new time or has taken the run: both are conditional on the same row. Indexes: runs_pkey, environments_pkey.
UPDATE headrace.runs AS r
SET delayed_until = $3::timestamptz,
    ready_at = CASE WHEN r.parked IS NULL
        THEN greatest(t.now - make_interval(secs => coalesce((r.options ->> 'priority')::float8, 0)), $3::timestamptz) ELSE r.ready_at END,
    parked = CASE WHEN r.parked IS NOT NULL
        THEN greatest(t.now - make_interval(secs => coalesce((r.options ->> 'priority')::float8, 0)), $3::timestamptz) END,
    expires_at = headrace.run_expiry(greatest(t.now, $3::timestamptz), (r.options ->> 'ttl')::float8, t.default_ttl, t.max_ttl),
    updated_at = t.now
FROM (SELECT headrace.clock() AS now, e.default_ttl, e.max_ttl FROM headrace.environments AS e WHERE e.id = $1::integer) AS t
WHERE r.environment_id = $1::integer AND r.id = $2::uuid AND r.status = 'QUEUED' AND r.attempt = 0 AND r.delayed_until > t.now
RETURNING r.id
