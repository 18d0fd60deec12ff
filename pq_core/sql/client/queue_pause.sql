-- Pause a queue. One row: whether it was not paused before.
-- Every claim reads pq_queues, so nobody has to be told.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), paused AS (
    INSERT INTO {schema}.pq_queues AS q (name, paused_at, paused_by)
    SELECT p ->> 'name', clock_timestamp(), p ->> 'by' FROM input
    ON CONFLICT (name) DO UPDATE SET paused_at = EXCLUDED.paused_at, paused_by = EXCLUDED.paused_by
        WHERE q.paused_at IS NULL
    RETURNING q.name
)
SELECT cast(to_json(EXISTS (SELECT FROM paused)) AS text)
