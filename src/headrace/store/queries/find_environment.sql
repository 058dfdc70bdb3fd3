-- An environment by its slug.
SELECT id, slug, signing_secret FROM headrace.environments WHERE slug = $1::text
