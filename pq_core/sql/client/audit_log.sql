-- What was done, the latest first, at most `limit`; `before_id` continues where a page ended.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p)
SELECT cast(row_to_json(a) AS text) FROM {schema}.pq_audit a
WHERE a.id < (SELECT coalesce(cast(p ->> 'before_id' AS bigint), 9223372036854775807) FROM input)
ORDER BY a.id DESC
LIMIT (SELECT cast(p ->> 'limit' AS bigint) FROM input)
