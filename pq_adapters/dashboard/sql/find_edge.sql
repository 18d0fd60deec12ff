-- Where a walk has used up its budget of {budget} rows; no row when it came to its end before.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p)
SELECT cast(t.place AS text) FROM ({window}) t OFFSET {budget} - 1 LIMIT 1
