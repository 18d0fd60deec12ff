-- Complete a running task in the caller's transaction. No row: this attempt no longer owns it.
-- The row is locked first, in its newest version, because the trigger that applies a parked version resets what
-- the history needs. A version parked later than this waits for the lock and finds the task completed.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), own AS MATERIALIZED (
    SELECT t.id, t.fence, t.attempts, t.worker_id, t.started_at, t.notify_finished, t.parked IS NOT NULL AS parked
    FROM {schema}.pq_tasks t, input
    WHERE t.id = cast(p ->> 'id' AS bigint) AND t.fence = cast(p ->> 'fence' AS bigint)
        AND t.started_at = cast(p ->> 'started_at' AS timestamptz) AND t.worker_id = cast(p ->> 'worker_id' AS bigint) AND t.status = 'running'
    FOR UPDATE OF t
), completed AS (
    UPDATE {schema}.pq_tasks t SET status = 'completed', outcome = 'succeeded', completed_at = clock_timestamp(),
        worker_id = nullif(t.worker_id, 0), result = nullif(p -> 'result', 'null'), error = NULL, error_fingerprint = NULL
    FROM own o, input WHERE t.id = o.id
    RETURNING t.id, t.status, t.run_at
), history AS (
    INSERT INTO {schema}.pq_attempts (task_id, fence, number, worker_id, outcome, started_at, finished_at)
    SELECT o.id, o.fence, o.attempts, o.worker_id, 'succeeded', o.started_at, clock_timestamp()
    FROM own o WHERE o.parked
    ON CONFLICT DO NOTHING
), waited_for AS (
    DELETE FROM {schema}.pq_waits w USING own o WHERE w.task_id = o.id AND NOT o.parked RETURNING w.task_id AS id
), told AS MATERIALIZED (
    -- notify_finished: as clients of before revision 5 say that they wait.
    SELECT pg_notify({schema}.pq_channel('done'), cast(e.id AS text)) FROM (
        SELECT o.id FROM own o WHERE o.notify_finished AND NOT o.parked UNION SELECT w.id FROM waited_for w) e
), woken AS MATERIALIZED (
    -- A parked version that has taken its place is due, or will be before a quiet worker looks (5 s, STRETCHED in
    -- attention.py). Its own worker may be among those who sleep, with other places free: it hears of this end when the
    -- run in its child is over.
    SELECT {schema}.pq_wake(ARRAY[c.id], NULL) FROM completed c
    WHERE c.status = 'pending' AND c.run_at < clock_timestamp() + interval '5 seconds'
)
SELECT cast(json_build_array(c.id, c.status) AS text) FROM completed c
WHERE (SELECT count(*) FROM told) >= 0 AND (SELECT count(*) FROM woken) >= 0
