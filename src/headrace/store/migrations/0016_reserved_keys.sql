-- A key that is reserved at home for a run of another store stands for something that is about to be made there. Null is
-- what it is everywhere with one store: what the key stands for was made in the transaction that claimed it, or was seen since.
ALTER TABLE headrace.idempotency_keys ADD COLUMN reserved_at timestamptz;
COMMENT ON COLUMN headrace.idempotency_keys.reserved_at IS
    'Reserved then for something that nobody has seen made yet (headrace.engine.foreign_keys).';
