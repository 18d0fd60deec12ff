-- What stands where, in one row: unfinished tasks by queue, the longest wait of a due task, workers alive.
-- Reads the partial indexes of unfinished tasks, never the finished ones.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), waiting AS (
    SELECT t.queue, count(*) AS due, 0 AS scheduled, 0 AS running, min(t.run_at) AS oldest
    FROM {schema}.pq_tasks t WHERE t.status = 'pending' AND t.due AND t.losses < 2 GROUP BY t.queue
    UNION ALL
    SELECT t.queue, count(*), 0, 0, min(t.run_at)
    FROM {schema}.pq_tasks t WHERE t.status = 'pending' AND t.losses >= 2 AND t.due GROUP BY t.queue
    UNION ALL
    SELECT t.queue, count(*) FILTER (WHERE t.run_at <= clock_timestamp()),
        count(*) FILTER (WHERE t.run_at > clock_timestamp()), 0,
        min(t.run_at) FILTER (WHERE t.run_at <= clock_timestamp())
    FROM {schema}.pq_tasks t WHERE t.status = 'pending' AND NOT t.due GROUP BY t.queue
    UNION ALL
    SELECT t.queue, count(*), 0, 0, min(t.run_at)
    FROM {schema}.pq_tasks t WHERE t.status = 'blocked' AND t.lane IS NOT NULL GROUP BY t.queue
    UNION ALL
    SELECT t.queue, 0, 0, count(*), NULL FROM {schema}.pq_tasks t WHERE t.status = 'running' GROUP BY t.queue
), queues AS (
    SELECT w.queue AS name, sum(w.due) AS due, sum(w.scheduled) AS scheduled, sum(w.running) AS running,
        coalesce(greatest(extract(epoch FROM clock_timestamp() - min(w.oldest) FILTER (WHERE isfinite(w.oldest))), 0), 0) AS oldest_wait
    FROM waiting w GROUP BY w.queue ORDER BY w.queue
)
SELECT cast(json_build_object(
    'queues', coalesce((SELECT json_agg(q) FROM queues q), '[]'),
    'workers', (SELECT count(*) FROM {schema}.pq_workers w WHERE w.expires_at > clock_timestamp())
) AS text) FROM input
