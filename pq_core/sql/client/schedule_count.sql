-- How many schedules there are.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p)
SELECT cast(count(s.id) AS text) FROM input LEFT JOIN {schema}.pq_periodic s ON s.removed_at IS NULL
