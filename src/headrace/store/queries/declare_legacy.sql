-- At home: the store $1 (key) is the one that runs are imported to. No row where runs were imported to another one.
UPDATE headrace.identity SET legacy = $1::text
WHERE NOT imported OR coalesce(legacy, '0') = $1::text
RETURNING legacy
