-- How many trees of this store are to go to the store $1, or are on their way there. There are few: no index.
SELECT count(*)::integer AS found FROM headrace.moves AS m WHERE m.store = $1::text
