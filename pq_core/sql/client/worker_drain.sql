-- Ask a live worker to end what it runs and stop. One row: whether there is one.
-- It is read with its heartbeat; the notification is the one that makes a worker send a heartbeat at once.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), asked AS (
    UPDATE {schema}.pq_workers w SET drain_requested = true
    WHERE w.id = (SELECT cast(p ->> 'id' AS bigint) FROM input) AND w.expires_at > clock_timestamp()
    RETURNING w.id
), told AS MATERIALIZED (
    SELECT pg_notify({schema}.pq_channel('wake'), '!cancel ' || a.id) FROM asked a
)
SELECT cast(to_json(EXISTS (SELECT FROM asked)) AS text) WHERE (SELECT count(*) FROM told) >= 0
