-- What a database that is to become a store has been used for before: names of tables that hold what would be lost or mixed up.
SELECT u.what FROM (
    SELECT 'runs' AS what, EXISTS (SELECT FROM headrace.runs) AS used
    UNION ALL SELECT 'batches', EXISTS (SELECT FROM headrace.batches)
    UNION ALL SELECT 'tokens', EXISTS (SELECT FROM headrace.tokens)
    UNION ALL SELECT 'schedules', EXISTS (SELECT FROM headrace.schedules)
    UNION ALL SELECT 'API keys', EXISTS (SELECT FROM headrace.api_keys)
    UNION ALL SELECT 'stores of its own', EXISTS (SELECT FROM headrace.stores AS s WHERE s.key <> '0')
) AS u
WHERE u.used
