-- Ask a live worker to interrupt what it runs, put it back, and stop. One row: whether there is one.
-- Told as in worker_drain.sql. A worker of older code knows drain_requested alone: it ends what it runs first.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), asked AS (
    UPDATE {schema}.pq_workers w SET stop_requested = true, drain_requested = true
    WHERE w.id = (SELECT cast(p ->> 'id' AS bigint) FROM input) AND w.expires_at > clock_timestamp()
    RETURNING w.id
), told AS MATERIALIZED (
    SELECT pg_notify({schema}.pq_channel('wake'), '!cancel ' || a.id) FROM asked a
)
SELECT cast(to_json(EXISTS (SELECT FROM asked)) AS text) WHERE (SELECT count(*) FROM told) >= 0
