-- How many tasks that match are in each state: one row per state that occurs.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p)
SELECT cast(json_build_array(t.status, count(*)) AS text) FROM {schema}.pq_tasks t
WHERE {conditions}
GROUP BY t.status
