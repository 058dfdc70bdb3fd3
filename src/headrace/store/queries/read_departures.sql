-- Rows of a tree that has left and may not have arrived, from a place on, a bounded number. Index: departures_pkey.
SELECT d.place, d.kind, d.content::text AS content FROM headrace.departures AS d
WHERE d.move_id = $1::uuid AND d.place > $2::bigint ORDER BY d.place LIMIT $3::integer
