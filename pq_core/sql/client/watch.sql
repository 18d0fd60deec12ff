-- Ask for a notification when a task ends, and say where it stands: no row when there is no such task.
-- Invariant: no lock on the task's row, which a claim would pass by. Whoever ends the task deletes what is noted here and
-- notifies; an end that began before this is committed does not see it, so the caller asks again soon.
WITH input AS (SELECT cast(cast(cast({parameters} AS text) AS jsonb) AS bigint) AS id), found AS MATERIALIZED (
    SELECT t.id, t.status, t.outcome, t.error, CASE t.status WHEN 'completed' THEN t.result END AS result
    FROM {schema}.pq_tasks t WHERE t.id = (SELECT id FROM input)
), noted AS (
    INSERT INTO {schema}.pq_waits (task_id)
    SELECT f.id FROM found f
    WHERE f.status IN ('pending', 'running', 'blocked')
        AND NOT EXISTS (SELECT FROM {schema}.pq_waits w WHERE w.task_id = f.id)
), over AS (
    -- Noted while the task ended.
    DELETE FROM {schema}.pq_waits w USING found f WHERE w.task_id = f.id AND f.status IN ('completed', 'failed', 'cancelled')
)
SELECT cast(json_build_object('id', f.id, 'status', f.status, 'outcome', f.outcome, 'error', f.error,
    'channel', {schema}.pq_channel('done'), 'result', f.result) AS text)
FROM found f
