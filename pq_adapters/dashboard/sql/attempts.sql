-- The recorded attempts of one task, in the order in which they ended, at most `limit`; `after_id` continues where a page
-- ended.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p)
SELECT cast(row_to_json(a) AS text) FROM {schema}.pq_attempts a
WHERE a.task_id = (SELECT cast(p ->> 'id' AS bigint) FROM input)
    AND a.id > (SELECT coalesce(cast(p ->> 'after_id' AS bigint), 0) FROM input)
ORDER BY a.id
LIMIT (SELECT cast(p ->> 'limit' AS bigint) FROM input)
