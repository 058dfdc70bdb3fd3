-- A page of runs, newest first (list_runs:back is the other way round): ids sort by time, so the key is the cursor and a run is
-- met once however many are added. ($2, $3) is the open interval of ids, $7 how many runs of it are looked at, at most.
-- $4 names the way in, of which the others are left alone. Indexes, in this order: runs_pkey; runs_unsuccessful; runs_by_key;
-- runs_by_schedule; bulk_members_results; runs_by_tag; runs_ready, runs_held and runs_waiting. The last two ways sort what they
-- find, so the caller counts it before (count_few_runs). $26: with payloads and outputs, which can be long.
SELECT r.id, l.task, l.queue, r.status, r.payload_type, r.output_type,
    CASE WHEN $26::boolean THEN r.payload END AS payload, CASE WHEN $26::boolean THEN r.output END AS output, r.error::text AS error, r.attempt,
    r.batch_id, r.batch_index, r.parent_run_id, r.root_run_id, r.depth, r.resumes, r.metadata::text AS metadata,
    r.idempotency_key, r.options::text AS options, r.created_at, r.updated_at,
    r.delayed_until, r.started_at, r.finished_at, r.traceparent, r.delayed_until > headrace.clock() AS delayed, l.pending,
    coalesce(v.version, CASE WHEN l.locked THEN l.version END) AS version
FROM (
    SELECT r.id FROM (
        (
            SELECT r.* FROM headrace.runs AS r
            WHERE $4::text = 'all' AND r.environment_id = $1::integer AND r.id > $2::uuid AND r.id < $3::uuid
            ORDER BY r.id DESC LIMIT $7::integer
        ) UNION ALL (
            SELECT r.* FROM headrace.runs AS r
            WHERE $4::text = 'unsuccessful' AND r.environment_id = $1::integer AND r.id > $2::uuid AND r.id < $3::uuid
                AND r.status IN ('CANCELED', 'FAILED', 'CRASHED', 'SYSTEM_FAILURE', 'EXPIRED', 'TIMED_OUT')
            ORDER BY r.id DESC LIMIT $7::integer
        ) UNION ALL (
            SELECT r.* FROM headrace.runs AS r
            WHERE $4::text = 'key' AND r.environment_id = $1::integer AND r.id > $2::uuid AND r.id < $3::uuid
                AND hashtextextended(r.idempotency_key, 0) = hashtextextended($18::text, 0) AND r.idempotency_key IS NOT NULL
            ORDER BY r.id DESC LIMIT $7::integer
        ) UNION ALL (
            SELECT r.* FROM headrace.runs AS r
            WHERE $4::text = 'schedule' AND r.environment_id = $1::integer AND r.id > $2::uuid AND r.id < $3::uuid
                AND r.schedule_id = $16::uuid
            ORDER BY r.id DESC LIMIT $7::integer
        ) UNION ALL (
            SELECT r.* FROM headrace.bulk_members AS m
            JOIN headrace.runs AS r ON r.environment_id = m.environment_id AND r.id = m.result_id
            WHERE $4::text = 'bulk' AND m.environment_id = $1::integer AND m.action_id = $17::uuid
                AND m.result_id > $2::uuid AND m.result_id < $3::uuid
            ORDER BY r.id DESC LIMIT $7::integer
        ) UNION ALL (
            SELECT r.* FROM (
                SELECT r.* FROM headrace.runs AS r
                WHERE $4::text = 'tags' AND r.options -> 'tags' IS NOT NULL AND r.options -> 'tags' ?| $13::text[] OFFSET 0
            ) AS r
            WHERE r.environment_id = $1::integer AND r.id > $2::uuid AND r.id < $3::uuid
            ORDER BY r.id DESC LIMIT $7::integer
        ) UNION ALL (
            SELECT r.* FROM (
                (SELECT r.* FROM headrace.runs AS r WHERE $4::text = 'open' AND 'QUEUED' = ANY($8::text[]) AND r.status = 'QUEUED')
                UNION ALL
                (SELECT r.* FROM headrace.runs AS r WHERE $4::text = 'open' AND 'EXECUTING' = ANY($8::text[]) AND r.status = 'EXECUTING')
                UNION ALL
                (SELECT r.* FROM headrace.runs AS r WHERE $4::text = 'open' AND 'WAITING' = ANY($8::text[]) AND r.status = 'WAITING')
                OFFSET 0
            ) AS r
            WHERE r.environment_id = $1::integer AND r.id > $2::uuid AND r.id < $3::uuid
            ORDER BY r.id DESC LIMIT $7::integer
        )
    ) AS r
    WHERE ($8::text[] IS NULL OR r.status = ANY($8::text[]::headrace.run_status[]))
        AND (
            $9::text[] IS NULL OR r.status <> 'QUEUED' OR CASE
                WHEN r.lane_id = ANY(ARRAY(
                    SELECT l.id FROM headrace.lane_states AS l WHERE l.environment_id = $1::integer AND l.pending
                )) THEN 'PENDING_VERSION'
                WHEN r.delayed_until > headrace.clock() THEN 'DELAYED'
                ELSE 'QUEUED'
            END = ANY($9::text[])
        )
        AND (
            ($10::text[] IS NULL AND $11::text[] IS NULL)
            OR r.lane_id = ANY(ARRAY(
                SELECT l.id FROM headrace.lanes AS l
                WHERE l.environment_id = $1::integer AND ($10::text[] IS NULL OR l.task = ANY($10::text[]))
                    AND ($11::text[] IS NULL OR l.queue = ANY($11::text[]))
            ))
        )
        AND ($12::uuid IS NULL OR r.batch_id = $12::uuid)
        AND ($13::text[] IS NULL OR r.options -> 'tags' ?| $13::text[])
        AND ($14::timestamptz IS NULL OR r.created_at >= $14::timestamptz)
        AND ($15::timestamptz IS NULL OR r.created_at <= $15::timestamptz)
        AND ($16::uuid IS NULL OR r.schedule_id = $16::uuid)
        AND ($17::uuid IS NULL OR EXISTS (
            SELECT FROM headrace.bulk_members AS m
            WHERE m.environment_id = $1::integer AND m.action_id = $17::uuid AND m.result_id = r.id
        ))
        AND ($18::text IS NULL OR r.idempotency_key = $18::text)
        AND ($19::text[] IS NULL OR r.concurrency_key = ANY($19::text[]))
        AND ($20::text[] IS NULL OR r.order_key = ANY($20::text[]))
        AND ($21::text[] IS NULL OR CASE
            WHEN r.version_id IS NOT NULL THEN r.version_id = ANY(ARRAY(
                SELECT v.id FROM headrace.versions AS v WHERE v.environment_id = $1::integer AND v.version = ANY($21::text[])
            ))
            ELSE r.lane_id = ANY(ARRAY(
                SELECT l.id FROM headrace.lanes AS l
                WHERE l.environment_id = $1::integer AND l.locked AND l.version = ANY($21::text[])
            ))
        END)
        AND ($22::boolean IS NULL OR coalesce(r.options ->> 'test' = 'true', false) = $22::boolean)
        AND ($23::text IS NULL OR strpos(
            lower(concat_ws(' ', r.error ->> 'code', r.error ->> 'name', r.error ->> 'message', r.error ->> 'raw')), lower($23::text)
        ) > 0)
        AND ($24::text[] IS NULL OR r.options ->> 'machine' = ANY($24::text[]))
        AND ($25::text[] IS NULL OR r.options ->> 'region' = ANY($25::text[]))
    ORDER BY r.id DESC LIMIT $5::integer OFFSET $6::integer
) AS p
CROSS JOIN LATERAL (SELECT r.* FROM headrace.runs AS r WHERE r.environment_id = $1::integer AND r.id = p.id LIMIT 1) AS r
JOIN headrace.lane_states AS l ON l.id = r.lane_id
LEFT JOIN headrace.versions AS v ON v.id = r.version_id
ORDER BY p.id DESC
