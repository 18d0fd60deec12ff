-- How many tasks match, no further than `limit`.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p)
SELECT cast(count(*) AS text) FROM (SELECT FROM {schema}.pq_tasks t
    WHERE {conditions}
    LIMIT (SELECT cast(p ->> 'limit' AS bigint) FROM input)) found
