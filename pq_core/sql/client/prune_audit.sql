-- Delete at most `limit` rows of the audit log that are more than `older_than` seconds old, oldest first. One row: how many.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), doomed AS MATERIALIZED (
    SELECT a.id FROM {schema}.pq_audit a
    WHERE a.at < (SELECT clock_timestamp() - cast(p ->> 'older_than' AS double precision) * interval '1 second' FROM input)
    ORDER BY a.at
    LIMIT (SELECT cast(p ->> 'limit' AS bigint) FROM input)
    FOR UPDATE OF a SKIP LOCKED
), deleted AS (
    DELETE FROM {schema}.pq_audit a USING doomed d WHERE a.id = d.id RETURNING 1
)
SELECT cast(count(*) AS text) FROM deleted
