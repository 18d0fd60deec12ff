-- Every queue that has unfinished tasks, a live worker or settings, by name, with counts up to `cap` + 1 per queue.
-- Names come out of pq_tasks_ready one by one, each found behind the last, and no count reads further than the cap:
-- what this costs depends on how many queues there are, not on how many tasks.
WITH RECURSIVE input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), ready(name) AS (
    (SELECT t.queue FROM {schema}.pq_tasks t
    WHERE t.status = 'pending' AND t.due AND t.losses < 2 ORDER BY t.queue LIMIT 1)
    UNION ALL
    SELECT (SELECT t.queue FROM {schema}.pq_tasks t
        WHERE t.status = 'pending' AND t.due AND t.losses < 2 AND t.queue > r.name ORDER BY t.queue LIMIT 1)
    FROM ready r WHERE r.name IS NOT NULL
), later AS MATERIALIZED (
    -- By time: the index of what is not due yet does not know queues. What has become due and was not promoted counts
    -- as due. Of the first `cap` + 1 in all.
    SELECT f.queue AS name, count(*) FILTER (WHERE f.run_at <= clock_timestamp()) AS due,
        count(*) FILTER (WHERE f.run_at > clock_timestamp()) AS scheduled,
        min(f.run_at) FILTER (WHERE f.run_at <= clock_timestamp()) AS oldest
    FROM (SELECT t.queue, t.run_at FROM {schema}.pq_tasks t WHERE t.status = 'pending' AND NOT t.due
        ORDER BY t.run_at LIMIT (SELECT cast(p ->> 'cap' AS bigint) + 1 FROM input)) f
    GROUP BY f.queue
), suspect AS MATERIALIZED (
    SELECT t.queue AS name, count(*) AS due, min(t.run_at) AS oldest FROM {schema}.pq_tasks t
    WHERE t.status = 'pending' AND t.losses >= 2 AND t.due GROUP BY t.queue
), held AS MATERIALIZED (
    SELECT f.queue AS name, count(*) AS due, min(f.run_at) AS oldest FROM (SELECT t.queue, t.run_at
        FROM {schema}.pq_tasks t WHERE t.status = 'blocked' AND t.lane IS NOT NULL
        LIMIT (SELECT cast(p ->> 'cap' AS bigint) + 1 FROM input)) f
    GROUP BY f.queue
), running AS MATERIALIZED (
    SELECT t.queue AS name, count(*) AS running FROM {schema}.pq_tasks t WHERE t.status = 'running' GROUP BY t.queue
), serving AS MATERIALIZED (
    SELECT q.name, count(*) AS workers FROM {schema}.pq_workers w, unnest(w.queues) q(name)
    WHERE w.expires_at > clock_timestamp() GROUP BY q.name
), names AS (
    -- Through an array: estimated at ten rows. Estimated at as many as an unknown table might have, all of this would
    -- look expensive enough to be compiled first, which takes four times as long as running it.
    SELECT unnest(ARRAY(SELECT r.name FROM ready r WHERE r.name IS NOT NULL
    UNION SELECT l.name FROM later l UNION SELECT s.name FROM suspect s UNION SELECT h.name FROM held h UNION SELECT r.name FROM running r
    UNION SELECT s.name FROM serving s UNION SELECT q.name FROM {schema}.pq_queues q)) AS name
)
SELECT cast(row_to_json(r) AS text) FROM (
    SELECT n.name, d.due + coalesce(l.due, 0) + coalesce(s.due, 0) + coalesce(h.due, 0) AS due,
        coalesce(h.due, 0) AS held, coalesce(l.scheduled, 0) AS scheduled,
        coalesce(r.running, 0) AS running,
        -- Within a priority the first one has waited longest: a look at each priority is enough.
        coalesce(greatest(extract(epoch FROM clock_timestamp() - least(o.oldest, l.oldest, s.oldest, h.oldest)), 0), 0)
            AS oldest_wait,
        coalesce(w.workers, 0) AS workers, q.paused_at, q.paused_by,
        CASE WHEN q.paused_until > clock_timestamp() THEN q.paused_until END AS paused_until, q.concurrency_limit, q.rate_limit,
        cast(extract(epoch FROM q.rate_period) AS double precision) AS rate_period,
        cast(extract(epoch FROM q.retention) AS double precision) AS retention,
        cast(extract(epoch FROM q.retention_failed) AS double precision) AS retention_failed
    FROM input, names n
    CROSS JOIN LATERAL (SELECT count(*) AS due FROM (SELECT FROM {schema}.pq_tasks t
        WHERE t.status = 'pending' AND t.due AND t.losses < 2 AND t.queue = n.name
        LIMIT cast(input.p ->> 'cap' AS bigint) + 1) c) d
    CROSS JOIN LATERAL (
        WITH RECURSIVE first(priority, run_at, n) AS (
            (SELECT -t.priority::integer, t.run_at, 1 FROM {schema}.pq_tasks t
            WHERE t.status = 'pending' AND t.due AND t.losses < 2 AND t.queue = n.name
            ORDER BY -t.priority::integer, t.run_at LIMIT 1)
            UNION ALL
            SELECT b.priority, b.run_at, f.n + 1 FROM first f CROSS JOIN LATERAL (
                SELECT -t.priority::integer AS priority, t.run_at FROM {schema}.pq_tasks t
                WHERE t.status = 'pending' AND t.due AND t.losses < 2 AND t.queue = n.name
                    AND -t.priority::integer > f.priority
                ORDER BY -t.priority::integer, t.run_at LIMIT 1) b
            WHERE f.n < 100
        ) SELECT min(f.run_at) AS oldest FROM first f) o
    LEFT JOIN later l ON l.name = n.name
    LEFT JOIN suspect s ON s.name = n.name
    LEFT JOIN held h ON h.name = n.name
    LEFT JOIN running r ON r.name = n.name
    LEFT JOIN serving w ON w.name = n.name
    LEFT JOIN {schema}.pq_queues q ON q.name = n.name
    ORDER BY n.name COLLATE "C"
) r
