-- Give a schedule that was just declared anew what no form shows: the headers that it had, and the options, which win over
-- those that the code says today.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p)
UPDATE {schema}.pq_periodic s
SET headers = coalesce(nullif(p -> 'headers', 'null'), s.headers),
    options = coalesce(nullif(s.options, 'null') || nullif(p -> 'options', 'null'), nullif(p -> 'options', 'null'), s.options)
FROM input WHERE s.id = cast(p ->> 'id' AS bigint)
RETURNING cast(s.id AS text)
