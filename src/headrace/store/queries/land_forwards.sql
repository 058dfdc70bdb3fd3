-- What had left this store and comes back is here again. Index: forwards_pkey.
UPDATE headrace.forwards AS f SET store = (SELECT i.key FROM headrace.identity AS i), move_id = NULL
FROM unnest($1::text[]) AS u (content)
WHERE f.id = (u.content::jsonb ->> 'id')::uuid
