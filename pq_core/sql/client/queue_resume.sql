-- End the pause of a queue, and wake those who sleep. One row: whether it was paused.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), resumed AS (
    UPDATE {schema}.pq_queues q SET paused_at = NULL, paused_by = NULL
    WHERE q.name = (SELECT p ->> 'name' FROM input) AND q.paused_at IS NOT NULL
    RETURNING q.name
), told AS MATERIALIZED (
    SELECT pg_notify({schema}.pq_channel('wake'), r.name) FROM resumed r
)
SELECT cast(to_json(EXISTS (SELECT FROM resumed)) AS text) WHERE (SELECT count(*) FROM told) >= 0
