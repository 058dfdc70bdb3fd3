-- Forgets keys whose time is over, a bounded number a call. Index: idempotency_keys_expiry.
DELETE FROM headrace.idempotency_keys WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM headrace.idempotency_keys WHERE expires_at <= headrace.clock() LIMIT $1::integer
    FOR UPDATE SKIP LOCKED
))
RETURNING 1 AS deleted
