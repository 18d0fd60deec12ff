-- Schedules that match, by name and key, at most `limit`.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p)
SELECT cast(row_to_json(r) AS text) FROM (
    SELECT s.id, s.name, s.key, s.client_id, s.payload, s.priority, s.queue, s.cron, s.timezone, s.next_run, s.last_run,
        cast(extract(epoch FROM s.run_every) AS double precision) AS run_every, s.start_at, s.end_at,
        cast(extract(epoch FROM s.jitter) AS double precision) AS jitter, s.catch_up, s.catch_up_limit,
        s.max_concurrent, s.active, s.max_runtime_seconds, s.max_attempts, s.version, s.app, s.declared_by, s.skipped,
        s.last_skipped_at, s.missed, s.ended_at, s.error, s.created_at, s.updated_at,
        coalesce(s.options @> '{"sensitive": true}', false) AS sensitive,
        (SELECT count(*) FROM {schema}.pq_tasks t
            WHERE t.schedule_id = s.id AND t.status IN ('pending', 'running', 'blocked')) AS unfinished
    FROM {schema}.pq_periodic s
    WHERE s.removed_at IS NULL AND {conditions}
    ORDER BY s.name COLLATE "C", s.key COLLATE "C"
    LIMIT (SELECT cast(p ->> 'limit' AS bigint) FROM input)
) r
