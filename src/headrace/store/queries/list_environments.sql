-- All environments.
SELECT id, slug, signing_secret FROM headrace.environments ORDER BY id
