-- Tasks that match, newest first, at most `limit`; `before_id` continues where a page ended.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p)
SELECT cast(row_to_json(t) AS text) FROM {schema}.pq_tasks t
WHERE {conditions}
ORDER BY t.id DESC
LIMIT (SELECT cast(p ->> 'limit' AS bigint) FROM input)
