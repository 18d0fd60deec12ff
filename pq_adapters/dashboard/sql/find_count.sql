-- How many tasks of a walk match, {limit} at most.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p)
SELECT cast(count(*) AS text) FROM (SELECT FROM ({window}) t WHERE {conditions} LIMIT {limit}) found
