-- One look of an idle worker: is anything ready, when does the next task become due or a pause of a queue end, do suspects
-- wait, when is the next schedule due (as in schedule_next.sql), does anything wait that has limits, has it
-- waited for long? Takes nothing.
--
-- $1 text[] queues  $2 integer[] lowest, $3 integer[] highest priority of each band
-- $4 bigint[] schedules that wait for a place
-- $5 jsonb what the worker's code can't run: name -> lowest version (NULL: nothing)
SELECT EXISTS (
        SELECT FROM unnest($1::text[]) q(name), unnest($2::integer[], $3::integer[]) b(low, high)
        WHERE NOT EXISTS (SELECT FROM {schema}.pq_queues p WHERE p.name = q.name AND (p.paused_at IS NOT NULL
            OR p.concurrency_limit IS NOT NULL OR p.rate_limit IS NOT NULL OR p.paused_until > clock_timestamp()))
            AND EXISTS (SELECT FROM {schema}.pq_tasks t
                WHERE t.status = 'pending' AND t.due AND t.losses < 2 AND t.queue = q.name
                    AND -t.priority::integer BETWEEN -b.high AND -b.low
                    AND (($5::jsonb ->> t.name)::integer <= t.version) IS NOT TRUE)
    ) AS ready,
    least((SELECT extract(epoch FROM t.run_at - clock_timestamp())::double precision FROM {schema}.pq_tasks t
        WHERE t.status = 'pending' AND NOT t.due AND t.run_at < 'infinity' ORDER BY t.run_at LIMIT 1),
        (SELECT extract(epoch FROM min(p.paused_until) - clock_timestamp())::double precision FROM {schema}.pq_queues p
        WHERE p.name = ANY ($1::text[]) AND p.paused_at IS NULL AND p.paused_until > clock_timestamp())) AS next_due,
    EXISTS (SELECT FROM {schema}.pq_tasks t, unnest($2::integer[], $3::integer[]) b(low, high)
        WHERE t.status = 'pending' AND t.losses >= 2 AND t.run_at <= clock_timestamp() AND t.queue = ANY ($1::text[])
            AND t.priority BETWEEN b.low AND b.high
            AND NOT EXISTS (SELECT FROM {schema}.pq_queues p WHERE p.name = t.queue AND (p.paused_at IS NOT NULL
            OR p.concurrency_limit IS NOT NULL OR p.rate_limit IS NOT NULL OR p.paused_until > clock_timestamp()))
    ) AS suspects,
    CASE WHEN EXISTS (SELECT FROM {schema}.pq_periodic p
            WHERE p.active AND p.next_run IS NULL AND p.id <> ALL ($4::bigint[])) THEN 0
        WHEN s.next_run = '-infinity' THEN 0
        WHEN s.next_run < 'infinity' THEN extract(epoch FROM s.next_run - clock_timestamp())::double precision
        END AS next_tick,
    s.cron IS NOT NULL AS cron,
    EXISTS (SELECT FROM {schema}.pq_tasks t
        WHERE t.status = 'blocked' AND t.lane IS NOT NULL AND t.queue = ANY ($1::text[])
            AND NOT EXISTS (SELECT FROM {schema}.pq_queues p
                WHERE p.name = t.queue AND (p.paused_at IS NOT NULL OR p.paused_until > clock_timestamp())))
    OR EXISTS (SELECT FROM {schema}.pq_queues p
        WHERE p.name = ANY ($1::text[]) AND p.paused_at IS NULL AND (p.concurrency_limit IS NOT NULL OR p.rate_limit IS NOT NULL)
            AND EXISTS (SELECT FROM {schema}.pq_tasks t WHERE t.status = 'pending' AND t.due AND t.queue = p.name)
    ) AS limited,
    -- The first of what is ready has waited for longer than whoever was woken for it takes (OVERDUE in claims.py).
    EXISTS (
        SELECT FROM unnest($1::text[]) q(name), unnest($2::integer[], $3::integer[]) b(low, high), LATERAL (
            SELECT greatest(t.run_at, t.created_at) AS since FROM {schema}.pq_tasks t
            WHERE t.status = 'pending' AND t.due AND t.losses < 2 AND t.queue = q.name
                AND -t.priority::integer BETWEEN -b.high AND -b.low
                AND (($5::jsonb ->> t.name)::integer <= t.version) IS NOT TRUE
            ORDER BY -t.priority::integer, t.run_at, t.id LIMIT 1) f
        WHERE f.since < clock_timestamp() - interval '0.5 seconds'
    ) AS late
FROM (SELECT 1) one LEFT JOIN LATERAL (SELECT p.next_run, p.cron FROM {schema}.pq_periodic p
    WHERE p.active AND p.next_run IS NOT NULL AND p.id <> ALL ($4::bigint[]) ORDER BY p.next_run LIMIT 1) s ON true;
