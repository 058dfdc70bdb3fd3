-- Tokens, which nobody ends until this transaction ends; others may lock them so as well. In one order. Index: tokens_pkey.
SELECT t.id FROM headrace.tokens AS t
WHERE t.environment_id = $1::integer AND t.id = ANY($2::uuid[]) ORDER BY t.id FOR SHARE
