-- What live pages show of workers and tasks, in one row: every worker's lease with the tasks under it, and the tasks that
-- somebody watches. Reads the index of running tasks and single rows, whatever is in the table.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), running AS MATERIALIZED (
    SELECT t.id, t.name, t.queue, t.worker_id, t.started_at, t.progress, t.progress_message, t.cancel_requested_at
    FROM {schema}.pq_tasks t WHERE t.status = 'running' ORDER BY t.worker_id, t.started_at LIMIT 2000
)
SELECT cast(json_build_object(
    'workers', (SELECT coalesce(json_agg(r), '[]') FROM (
        SELECT w.id, w.name, w.host, w.pid, w.app, w.queues, w.concurrency, w.started_at, w.heartbeat_at, w.expires_at,
            w.expires_at > clock_timestamp() AS alive, w.draining, w.drain_requested, w.stop_requested, w.sleeping, w.pq_version, w.info,
            (SELECT count(*) FROM running n WHERE n.worker_id = w.id) AS running,
            (SELECT coalesce(json_agg(k), '[]') FROM (SELECT n.* FROM running n WHERE n.worker_id = w.id
                ORDER BY n.started_at LIMIT 20) k) AS tasks
        FROM {schema}.pq_workers w ORDER BY w.expires_at > clock_timestamp() DESC, w.host, w.name, w.id LIMIT 200) r),
    'more', (SELECT greatest(count(*) - 200, 0) FROM {schema}.pq_workers w),
    'tasks', (SELECT coalesce(json_agg(r), '[]') FROM (
        SELECT t.id, t.name, t.status, t.due, t.attempts, t.fence, t.started_at, t.progress, t.progress_message,
            t.cancel_requested_at, CASE WHEN t.options -> 'sensitive' IS DISTINCT FROM 'true' AND NOT EXISTS (
                SELECT FROM {schema}.pq_attempts a WHERE a.task_id = t.id AND a.output = t.output) THEN t.output END AS output
        FROM {schema}.pq_tasks t
        WHERE t.id = ANY (ARRAY(SELECT cast(i AS bigint) FROM input, jsonb_array_elements_text(p -> 'tasks') i))) r)
) AS text) FROM input
