-- Ends tokens whose time is over, a bounded number a call. One that is being completed, or waited for, at this moment is
-- skipped and found the next time. Index: tokens_due.
UPDATE headrace.tokens AS t SET status = 'TIMED_OUT', completed_at = headrace.clock()
WHERE t.ctid = ANY(ARRAY(
    SELECT u.ctid FROM headrace.tokens AS u
    WHERE u.status = 'WAITING' AND u.timeout_at <= headrace.clock()
    ORDER BY u.timeout_at LIMIT $1::integer FOR UPDATE SKIP LOCKED
))
RETURNING t.environment_id, t.id
