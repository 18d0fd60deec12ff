-- Delete the tasks that match, with the history of their attempts. One row: how many tasks.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), deleted AS (
    DELETE FROM {schema}.pq_tasks t WHERE {conditions} RETURNING t.id
), history AS (
    DELETE FROM {schema}.pq_attempts a WHERE a.task_id IN (SELECT id FROM deleted)
)
SELECT cast(count(*) AS text) FROM deleted
