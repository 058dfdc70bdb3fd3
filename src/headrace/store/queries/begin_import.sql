-- At home: runs are imported from now on, and to which store (key). It is never another one after that.
UPDATE headrace.identity SET legacy = coalesce(legacy, '0'), imported = true
RETURNING legacy
