-- Tasks that match, in the order of a walk. Invariant: the walk looks at {budget} rows at most, whatever matches, and stops
-- when the page is full: a filter on a subquery keeps its order.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p)
SELECT cast(row_to_json(r) AS text) FROM (
    SELECT {columns}, t.place FROM ({window}) t WHERE {conditions} LIMIT {limit}
) r
