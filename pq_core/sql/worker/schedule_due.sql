-- The schedules that are due, and those that nobody has planned yet: they are active and have no next_run. Takes nothing;
-- who writes the outcome (schedule_tick.sql) checks that nobody was faster.
--
-- $1 integer how many at most  $2 bigint[] schedules that wait for a place
SELECT s.id, s.name, s.key, s.next_run, s.updated_at, extract(epoch FROM s.run_every)::double precision AS run_every, s.cron,
    s.timezone, s.start_at, s.end_at, s.catch_up, s.catch_up_limit, s.created_at, s.error, clock_timestamp() AS now,
    jsonb_typeof(s.payload) = 'object' AND coalesce(jsonb_typeof(s.payload -> 'args'), 'array') = 'array'
        AND coalesce(jsonb_typeof(s.payload -> 'kwargs'), 'object') = 'object'
        AND coalesce(jsonb_typeof(s.options), 'object') IN ('object', 'null') AND s.name <> '' AS sound
FROM (
    (SELECT * FROM {schema}.pq_periodic p WHERE p.active AND p.next_run IS NULL AND p.id <> ALL ($2::bigint[]) LIMIT $1::integer)
    UNION ALL
    (SELECT * FROM {schema}.pq_periodic p
        WHERE p.active AND p.next_run <= statement_timestamp() AND p.id <> ALL ($2::bigint[])
        ORDER BY p.next_run LIMIT $1::integer)
) s;
