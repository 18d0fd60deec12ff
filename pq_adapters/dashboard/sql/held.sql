-- What runs and waits under limits of its own, in one row: by queue and lane, {most} of them at most, with how many run
-- under its key and under its function's name, over all queues; and which keys and functions are paused. Lanes come out
-- of pq_tasks_held one by one, each found behind the last, and no count reads further than the cap: what this costs
-- depends on how many lanes there are, not on how many tasks.
WITH RECURSIVE input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), waiting(queue, lane, n) AS (
    (SELECT t.queue, t.lane, 1 FROM {schema}.pq_tasks t
    WHERE t.status = 'blocked' AND t.lane IS NOT NULL AND {bounds} ORDER BY t.queue, t.lane LIMIT 1)
    UNION ALL
    SELECT b.queue, b.lane, w.n + 1 FROM waiting w CROSS JOIN LATERAL (SELECT t.queue, t.lane FROM {schema}.pq_tasks t
        WHERE t.status = 'blocked' AND t.lane IS NOT NULL AND (t.queue, t.lane) > (w.queue, w.lane) AND {bounds}
        ORDER BY t.queue, t.lane LIMIT 1) b
    WHERE w.n < {most}
), running AS MATERIALIZED (
    SELECT t.id, t.queue, t.lane, t.name, t.options -> 'limits' AS limits FROM {schema}.pq_tasks t
    WHERE t.status = 'running' AND t.lane IS NOT NULL AND t.options ? 'limits'
), paused AS MATERIALIZED (
    SELECT l.subject, l.paused_until FROM {schema}.pq_limits l WHERE l.paused_until > clock_timestamp()
), lanes AS (
    SELECT b.queue, b.lane FROM (SELECT w.queue, w.lane FROM waiting w
        UNION SELECT t.queue, t.lane FROM running t WHERE {bounds}) b ORDER BY b.queue, b.lane LIMIT {most}
)
SELECT cast(json_build_object(
    'lanes', (SELECT coalesce(json_agg(r ORDER BY r.queue, r.key, r.name), '[]') FROM (
        SELECT l.queue, h.limits ->> 'key' AS key, CASE WHEN h.limits ?| ARRAY['concurrency', 'rate'] THEN h.name END AS name,
            h.limits, c.waiting, h.run_at AS oldest,
            (SELECT count(*) FROM running n WHERE n.queue = l.queue AND n.lane = l.lane) AS running,
            (SELECT count(*) FROM running n WHERE n.limits ->> 'key' = h.limits ->> 'key') AS of_key,
            (SELECT count(*) FROM running n WHERE n.name = h.name
                AND n.limits ?| ARRAY['concurrency', 'rate']) AS of_name,
            (SELECT max(p.paused_until) FROM paused p
                WHERE p.subject IN ('key:' || (h.limits ->> 'key'), 'task:' || h.name)) AS paused_until
        FROM lanes l
        CROSS JOIN LATERAL (SELECT count(*) AS waiting FROM (SELECT FROM {schema}.pq_tasks t
            WHERE t.status = 'blocked' AND t.lane IS NOT NULL AND t.queue = l.queue AND t.lane = l.lane
            LIMIT cast((SELECT p ->> 'cap' FROM input) AS bigint) + 1) first) c
        CROSS JOIN LATERAL (
            SELECT b.* FROM (
                (SELECT t.name, t.options -> 'limits' AS limits, t.run_at FROM {schema}.pq_tasks t
                WHERE t.status = 'blocked' AND t.lane IS NOT NULL AND t.queue = l.queue AND t.lane = l.lane
                ORDER BY -t.priority::integer, t.run_at, t.id LIMIT 1)
                UNION ALL
                SELECT n.name, n.limits, NULL FROM running n WHERE n.queue = l.queue AND n.lane = l.lane
            ) b LIMIT 1) h
        ) r),
    'paused', (SELECT coalesce(json_agg(r ORDER BY r.subject), '[]') FROM (
        SELECT p.subject, p.paused_until FROM paused p ORDER BY p.subject LIMIT {most}) r)
) AS text)
