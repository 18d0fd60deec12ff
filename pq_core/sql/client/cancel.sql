-- Cancel what matches and has not finished. What does not run is cancelled at once. What runs stays `running` until
-- its child is gone: the request is noted, a version parked before it is dropped, and its worker is told.
-- One row per task: its id and state. One UPDATE, so that a task claimed meanwhile is judged by its newest state.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), cancelled AS (
    UPDATE {schema}.pq_tasks t SET
        status = CASE t.status WHEN 'running' THEN 'running' ELSE 'cancelled' END,
        outcome = CASE t.status WHEN 'running' THEN t.outcome ELSE 'cancelled' END,
        completed_at = CASE t.status WHEN 'running' THEN t.completed_at ELSE clock_timestamp() END,
        cancel_requested_at = coalesce(t.cancel_requested_at, clock_timestamp()),
        cancel_reason = coalesce((SELECT p ->> 'reason' FROM input), t.cancel_reason),
        parked = NULL
    WHERE t.status IN ('pending', 'running', 'blocked') AND {conditions}
    RETURNING t.id, t.status, t.worker_id, t.notify_finished
), waited_for AS (
    DELETE FROM {schema}.pq_waits w USING cancelled c WHERE w.task_id = c.id AND c.status = 'cancelled'
    RETURNING w.task_id AS id
), told AS MATERIALIZED (
    SELECT pg_notify({schema}.pq_channel('wake'), '!cancel ' || c.worker_id)
    FROM (SELECT DISTINCT worker_id FROM cancelled WHERE status = 'running' AND worker_id IS NOT NULL) c
    UNION ALL
    -- notify_finished: as clients of before revision 5 say that they wait.
    SELECT pg_notify({schema}.pq_channel('done'), cast(e.id AS text)) FROM (
        SELECT c.id FROM cancelled c WHERE c.status = 'cancelled' AND c.notify_finished
        UNION SELECT w.id FROM waited_for w) e
)
SELECT cast(json_build_array(c.id, c.status) AS text) FROM cancelled c
WHERE (SELECT count(*) FROM told) >= 0
