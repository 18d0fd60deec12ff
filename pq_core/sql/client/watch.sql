-- Ask for a notification when a task ends, and say where it stands: no row when there is no such task.
-- A row that somebody holds is not waited for: `marked` is false then, and the caller asks again.
WITH input AS (SELECT cast(cast(cast({parameters} AS text) AS jsonb) AS bigint) AS id), target AS MATERIALIZED (
    SELECT t.id FROM {schema}.pq_tasks t
    WHERE t.id = (SELECT id FROM input) AND t.status IN ('pending', 'running', 'blocked')
    FOR NO KEY UPDATE OF t SKIP LOCKED
), marked AS (
    UPDATE {schema}.pq_tasks t SET notify_finished = true FROM target g WHERE t.id = g.id AND NOT t.notify_finished
)
SELECT cast(json_build_object('id', t.id, 'status', t.status, 'outcome', t.outcome, 'error', t.error,
    'marked', g.id IS NOT NULL, 'channel', {schema}.pq_channel('done'),
    'result', CASE t.status WHEN 'completed' THEN t.result END) AS text)
FROM input i JOIN {schema}.pq_tasks t ON t.id = i.id LEFT JOIN target g ON g.id = t.id
