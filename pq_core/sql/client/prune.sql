-- Delete at most `limit` tasks of one finished state that ended more than `older_than` seconds ago, oldest first.
-- Rows that somebody else is pruning or retrying are left to them. One row: how many tasks.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), doomed AS MATERIALIZED (
    SELECT t.id FROM {schema}.pq_tasks t
    WHERE {conditions} AND t.completed_at < (
        SELECT clock_timestamp() - cast(p ->> 'older_than' AS double precision) * interval '1 second' FROM input)
    ORDER BY t.completed_at
    LIMIT (SELECT cast(p ->> 'limit' AS bigint) FROM input)
    FOR UPDATE OF t SKIP LOCKED
), deleted AS (
    DELETE FROM {schema}.pq_tasks t USING doomed d WHERE t.id = d.id RETURNING t.id
), history AS (
    DELETE FROM {schema}.pq_attempts a WHERE a.task_id IN (SELECT id FROM deleted)
)
SELECT cast(count(*) AS text) FROM deleted
