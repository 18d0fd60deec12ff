-- Finished tasks that match, the one that ended last first, at most `limit`.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p)
SELECT cast(row_to_json(t) AS text) FROM {schema}.pq_tasks t
WHERE {conditions}
ORDER BY t.completed_at DESC, t.id DESC
LIMIT (SELECT cast(p ->> 'limit' AS bigint) FROM input)
