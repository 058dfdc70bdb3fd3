-- A run waits for a batch, for its end or for some more of its items to end; how it stands. The row is locked first, so that
-- whoever ends it later sees the wait. Index: batches_pkey.
UPDATE headrace.batches AS b SET watched = b.watched OR NOT $3::boolean, followed = b.followed OR $3::boolean
WHERE b.environment_id = $1::integer AND b.id = $2::uuid
RETURNING b.completed_at IS NOT NULL AS ended, b.settled
