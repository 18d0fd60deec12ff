-- The tasks of a schedule, the latest tick first, at most `limit`.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p)
SELECT cast(row_to_json(t) AS text) FROM {schema}.pq_tasks t
WHERE t.schedule_id = (SELECT cast(p ->> 'id' AS bigint) FROM input)
ORDER BY t.tick_at DESC
LIMIT (SELECT cast(p ->> 'limit' AS bigint) FROM input)
