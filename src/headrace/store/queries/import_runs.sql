-- Ended runs of another installation. One that is here, or was and has been moved, is left as it is. "moved" lets in ids that are no
-- store's own (see the guard, runs_owned). Indexes: runs_pkey, forwards_pkey.
INSERT INTO headrace.runs (
    environment_id, lane_id, id, status, attempt, ready_at, created_at, started_at, finished_at, updated_at,
    payload, payload_type, output, output_type, error, options, idempotency_key, moved
)
SELECT $1::integer, i.lane_id, i.id, i.status::headrace.run_status, i.attempt, i.created_at, i.created_at, i.started_at, i.ended_at,
    i.ended_at, i.payload, i.payload_type, i.output, i.output_type, i.error::jsonb, i.options::jsonb, i.idempotency_key, true
FROM unnest(
    $2::integer[], $3::uuid[], $4::text[], $5::integer[], $6::timestamptz[], $7::timestamptz[], $8::timestamptz[],
    $9::bytea[], $10::text[], $11::bytea[], $12::text[], $13::text[], $14::text[], $15::text[]
) AS i (
    lane_id, id, status, attempt, created_at, started_at, ended_at, payload, payload_type, output, output_type, error, options,
    idempotency_key
)
WHERE NOT EXISTS (SELECT FROM headrace.forwards AS f WHERE f.id = i.id)
ON CONFLICT (environment_id, id) DO NOTHING
RETURNING id
