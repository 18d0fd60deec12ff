-- When the next schedule is due: seconds from now (0: there is one to be planned, NULL: there is none), and whether it
-- has a cron expression.
--
-- $1 bigint[] schedules that wait for a place
SELECT CASE WHEN EXISTS (SELECT FROM {schema}.pq_periodic p
            WHERE p.active AND p.next_run IS NULL AND p.id <> ALL ($1::bigint[])) THEN 0
        WHEN s.next_run = '-infinity' THEN 0
        WHEN s.next_run < 'infinity' THEN extract(epoch FROM s.next_run - clock_timestamp())::double precision
        END AS next_tick,
    s.cron IS NOT NULL AS cron
FROM (SELECT 1) one LEFT JOIN LATERAL (SELECT p.next_run, p.cron FROM {schema}.pq_periodic p
    WHERE p.active AND p.next_run IS NOT NULL AND p.id <> ALL ($1::bigint[]) ORDER BY p.next_run LIMIT 1) s ON true;
