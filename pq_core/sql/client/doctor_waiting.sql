-- Names and versions of unfinished tasks, of the `cap` that are due first: how many, since when a worker has found that
-- it can't run them, and whether a live worker serves their queue. One row per name, version and queue.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), waiting AS (
    SELECT t.name, t.version, t.queue, t.unroutable_since, t.due FROM {schema}.pq_tasks t
    WHERE t.status = 'pending' LIMIT (SELECT cast(p ->> 'cap' AS bigint) FROM input)
)
SELECT cast(json_build_object('name', w.name, 'version', w.version, 'queue', w.queue, 'count', count(*),
    'due', count(*) FILTER (WHERE w.due),
    'refused', count(w.unroutable_since),
    'since', extract(epoch FROM clock_timestamp() - min(w.unroutable_since)),
    'served', EXISTS (SELECT FROM {schema}.pq_workers k
        WHERE w.queue = ANY (k.queues) AND k.expires_at > clock_timestamp())) AS text)
FROM waiting w GROUP BY w.name, w.version, w.queue ORDER BY w.name, w.version, w.queue
