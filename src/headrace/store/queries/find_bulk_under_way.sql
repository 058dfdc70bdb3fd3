-- Whether any bulk action of an environment is under way, in whatever stores: asked at home. Index: bulk_actions_pending.
SELECT a.id FROM headrace.bulk_actions AS a
WHERE a.environment_id = $1::integer AND a.status = 'PENDING' LIMIT 1
