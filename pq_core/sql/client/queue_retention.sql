-- Say for how long a queue's finished tasks stay: seconds, below zero for ever, NULL what the application says.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p)
INSERT INTO {schema}.pq_queues AS q (name, retention, retention_failed)
SELECT p ->> 'name', cast(p ->> 'finished' AS double precision) * interval '1 second',
    cast(p ->> 'failed' AS double precision) * interval '1 second' FROM input
ON CONFLICT (name) DO UPDATE SET retention = EXCLUDED.retention, retention_failed = EXCLUDED.retention_failed
RETURNING cast(to_json(true) AS text)
