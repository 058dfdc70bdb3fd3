-- The time by which everything is compared.
SELECT headrace.clock() AS now
