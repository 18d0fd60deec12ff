-- Tasks that run though nobody runs them: under a lease that ended more than `seconds` ago, or begun so long ago under
-- none. A live worker takes those of a dead one back within two seconds after its lease has ended. One row per worker.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), old AS (
    SELECT clock_timestamp() - cast(p ->> 'seconds' AS double precision) * interval '1 second' AS moment FROM input
)
SELECT cast(json_build_object('worker', t.worker_id, 'name', w.name, 'count', count(*),
    'ended', extract(epoch FROM clock_timestamp() - w.expires_at)) AS text)
FROM {schema}.pq_tasks t CROSS JOIN old LEFT JOIN {schema}.pq_workers w ON w.id = t.worker_id
WHERE t.status = 'running' AND (w.expires_at < old.moment OR (w.id IS NULL AND t.started_at < old.moment))
GROUP BY t.worker_id, w.name, w.expires_at ORDER BY t.worker_id
