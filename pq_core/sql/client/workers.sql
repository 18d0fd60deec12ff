-- Every worker's lease, with whether it still holds and how many tasks run under it.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p)
SELECT cast(row_to_json(r) AS text) FROM (
    SELECT w.id, w.name, w.host, w.pid, w.app, w.queues, w.concurrency, w.started_at, w.heartbeat_at, w.expires_at,
        w.expires_at > clock_timestamp() AS alive, w.pq_version,
        w.draining OR w.drain_requested AS draining, w.stop_requested AS stopping,
        (SELECT count(*) FROM {schema}.pq_tasks t WHERE t.worker_id = w.id AND t.status = 'running') AS running
    FROM {schema}.pq_workers w, input
    ORDER BY w.id
) r
