-- A new store: key $1, name $2, URL $3 (null: from HEADRACE_STORES), weight $4; it takes roots in $5 seconds.
INSERT INTO headrace.stores (key, name, url, weight, opens_at)
VALUES ($1::text, $2::text, $3::text, $4::float8, now() + make_interval(secs => $5::float8))
