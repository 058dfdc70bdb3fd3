-- Which store this database is: one row, by its primary key.
SELECT key, name, fleet FROM headrace.identity
