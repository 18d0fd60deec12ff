-- Pause a schedule, or let it go on. What was due in the meantime is not made up for: an interval goes on in its rhythm,
-- the next tick of a cron expression is left to a worker. One row: its id.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), changed AS (
    UPDATE {schema}.pq_periodic s SET
        active = cast(p -> 'active' AS boolean),
        next_run = CASE
            WHEN NOT cast(p -> 'active' AS boolean) OR (s.error IS NULL AND (s.active OR s.next_run > clock_timestamp()))
                THEN s.next_run
            WHEN s.run_every > interval '0' AND s.next_run > '-infinity' THEN s.next_run + s.run_every
                * ceil(extract(epoch FROM clock_timestamp() - s.next_run) / extract(epoch FROM s.run_every))
        END,
        ended_at = NULL,
        error = NULL,
        updated_at = clock_timestamp()
    FROM input
    WHERE s.removed_at IS NULL AND {conditions}
    RETURNING s.id
), told AS MATERIALIZED (
    SELECT pg_notify({schema}.pq_channel('wake'), '!tick') FROM (SELECT count(*) AS n FROM changed) c WHERE c.n > 0
)
SELECT cast(c.id AS text) FROM changed c WHERE (SELECT count(*) FROM told) >= 0
