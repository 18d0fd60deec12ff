-- Give pending tasks that match another time or priority. `due` follows run_at. One row per task: its id.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), wanted AS MATERIALIZED (
    SELECT cast(p ->> 'priority' AS smallint) AS priority, CASE
        WHEN p ->> 'run_at' IS NOT NULL THEN cast(p ->> 'run_at' AS timestamptz)
        WHEN p ->> 'run_in' IS NOT NULL
            THEN clock_timestamp() + cast(p ->> 'run_in' AS double precision) * interval '1 second'
        END AS run_at
    FROM input
), moved AS (
    UPDATE {schema}.pq_tasks t SET
        status = 'pending',
        run_at = coalesce(w.run_at, t.run_at),
        due = coalesce(w.run_at, t.run_at) <= clock_timestamp(),
        priority = coalesce(w.priority, t.priority)
    FROM wanted w WHERE (t.status = 'pending' OR (t.status = 'blocked' AND t.lane IS NOT NULL)) AND {conditions}
    RETURNING t.id
), woken AS MATERIALIZED (
    SELECT {schema}.pq_wake(ARRAY(SELECT m.id FROM moved m), NULL)
)
SELECT cast(m.id AS text) FROM moved m WHERE (SELECT count(*) FROM woken) >= 0
