-- Every limit that anything runs or waits under, or that is set or paused: queues with limits, task functions and keys.
-- One row for each: kind, name, running, allowed (NULL: not limited), rate in starts per second (NULL: none), waiting
-- (up to `cap` + 1 for each lane), next_start (when its rate lets the next one start, if that is later), paused_until (a
-- pause by hand is `infinity`). Lanes come out of pq_tasks_held one by one, each found behind the last, `lanes` of them at
-- most: what this costs depends on how many keys wait, not on how many tasks.
WITH RECURSIVE input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), lane(queue, lane, name, limits, n) AS (
    (SELECT t.queue, t.lane, t.name, t.options -> 'limits', 1 FROM {schema}.pq_tasks t
    WHERE t.status = 'blocked' AND t.lane IS NOT NULL ORDER BY t.queue, t.lane LIMIT 1)
    UNION ALL
    SELECT f.queue, f.lane, f.name, f.limits, l.n + 1 FROM lane l CROSS JOIN LATERAL (
        SELECT t.queue, t.lane, t.name, t.options -> 'limits' AS limits FROM {schema}.pq_tasks t
        WHERE t.status = 'blocked' AND t.lane IS NOT NULL AND (t.queue, t.lane) > (l.queue, l.lane)
        ORDER BY t.queue, t.lane LIMIT 1) f
    WHERE l.n < (SELECT cast(p ->> 'lanes' AS integer) FROM input)
), waiting AS MATERIALIZED (
    SELECT l.queue, l.name, l.limits, c.waiting FROM lane l CROSS JOIN LATERAL (
        SELECT count(*) AS waiting FROM (SELECT FROM {schema}.pq_tasks t
            WHERE t.status = 'blocked' AND t.lane IS NOT NULL AND t.queue = l.queue AND t.lane = l.lane
            LIMIT (SELECT cast(p ->> 'cap' AS bigint) + 1 FROM input)) w) c
), running AS MATERIALIZED (
    SELECT t.queue, t.name, t.options -> 'limits' AS limits FROM {schema}.pq_tasks t WHERE t.status = 'running'
), of_queues AS (
    SELECT 'queue' AS kind, q.name, (SELECT count(*) FROM running r WHERE r.queue = q.name) AS running,
        q.concurrency_limit AS allowed,
        q.rate_limit / extract(epoch FROM coalesce(q.rate_period, interval '1 second')) AS rate,
        (SELECT count(*) FROM (SELECT FROM {schema}.pq_tasks t
            WHERE t.status = 'pending' AND t.due AND t.losses < 2 AND t.queue = q.name
            LIMIT (SELECT cast(p ->> 'cap' AS bigint) + 1 FROM input)) d)
            + coalesce((SELECT sum(w.waiting) FROM waiting w WHERE w.queue = q.name), 0) AS waiting,
        CASE WHEN q.paused_at IS NOT NULL THEN 'infinity' ELSE q.paused_until END AS paused_until
    FROM {schema}.pq_queues q
    WHERE q.concurrency_limit IS NOT NULL OR q.rate_limit IS NOT NULL OR q.paused_at IS NOT NULL
        OR q.paused_until > clock_timestamp()
), own AS (
    -- Tasks of one name or key may have been stored with different numbers: the narrowest is shown.
    SELECT u.kind, u.name, sum(u.running) AS running, min(u.allowed) AS allowed, min(u.rate) AS rate,
        sum(u.waiting) AS waiting
    FROM (SELECT r.name, r.limits, 1 AS running, 0 AS waiting FROM running r WHERE r.limits IS NOT NULL
        UNION ALL SELECT w.name, w.limits, 0, w.waiting FROM waiting w) t
    CROSS JOIN LATERAL (VALUES
        ('task', CASE WHEN t.limits ?| ARRAY['concurrency', 'rate'] THEN t.name END,
            cast(t.limits ->> 'concurrency' AS bigint), cast(t.limits ->> 'rate' AS double precision), t.running, t.waiting),
        ('key', t.limits ->> 'key', cast(t.limits ->> 'at_once' AS bigint), NULL, t.running, t.waiting)
    ) u(kind, name, allowed, rate, running, waiting)
    WHERE u.name IS NOT NULL
    GROUP BY u.kind, u.name
), all_of_them AS (
    SELECT q.kind, q.name, q.running, q.allowed, q.rate, q.waiting, q.paused_until FROM of_queues q
    UNION ALL
    SELECT coalesce(o.kind, split_part(l.subject, ':', 1)), coalesce(o.name, substr(l.subject, strpos(l.subject, ':') + 1)),
        coalesce(o.running, 0), o.allowed, o.rate, coalesce(o.waiting, 0), l.paused_until
    FROM own o FULL JOIN (SELECT * FROM {schema}.pq_limits s
        WHERE s.paused_until > clock_timestamp() AND s.subject NOT LIKE 'queue:%') l ON l.subject = o.kind || ':' || o.name
)
SELECT cast(row_to_json(r) AS text) FROM (
    SELECT a.kind, a.name, a.running, a.allowed, a.rate, a.waiting,
        CASE WHEN s.next_at - {schema}.pq_limit_slack(cast(1 / a.rate AS double precision)) * interval '1 second'
            > clock_timestamp() THEN s.next_at END AS next_start,
        CASE WHEN a.paused_until > clock_timestamp() THEN a.paused_until END AS paused_until
    FROM all_of_them a LEFT JOIN {schema}.pq_limits s ON s.subject = a.kind || ':' || a.name
    ORDER BY array_position(ARRAY['queue', 'task', 'key'], a.kind), a.name COLLATE "C"
) r
