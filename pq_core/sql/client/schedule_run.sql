-- Run a schedule now, beside its rhythm and whether or not it is paused or has a run already. One row: the task's id.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), chosen AS MATERIALIZED (
    SELECT {schema}.pq_schedule_task(to_jsonb(s), clock_timestamp()) - 'run_at' AS task
    FROM {schema}.pq_periodic s WHERE s.removed_at IS NULL AND {conditions}
)
SELECT cast(e.id AS text) FROM chosen c CROSS JOIN LATERAL {schema}.pq_enqueue(c.task) e
