-- Schedules by name and key, `limit` at most, each with its last fifty ticks that became tasks, the latest first.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), chosen AS (
    SELECT s.* FROM {schema}.pq_periodic s, input
    WHERE s.removed_at IS NULL
        AND (p ->> 'id' IS NULL OR s.id = cast(p ->> 'id' AS bigint))
        AND (p ->> 'search' IS NULL OR position(lower(p ->> 'search') IN lower(s.name || ' ' || s.key)) > 0)
        AND (p ->> 'after' IS NULL
            OR (s.name COLLATE "C", s.key COLLATE "C") > (p -> 'after' ->> 0, p -> 'after' ->> 1))
    ORDER BY s.name COLLATE "C", s.key COLLATE "C"
    LIMIT (SELECT cast(p ->> 'limit' AS bigint) FROM input)
)
SELECT cast(row_to_json(r) AS text) FROM (
    SELECT s.id, s.name, s.key, s.client_id, s.payload, s.priority, s.queue, s.cron, s.timezone, s.next_run, s.last_run,
        cast(extract(epoch FROM s.run_every) AS double precision) AS run_every, s.start_at, s.end_at,
        cast(extract(epoch FROM s.jitter) AS double precision) AS jitter, s.catch_up, s.catch_up_limit,
        s.max_concurrent, s.active, s.max_runtime_seconds, s.max_attempts, s.version, s.app, s.declared_by, s.skipped,
        s.last_skipped_at, s.missed, s.ended_at, s.error, s.created_at, s.updated_at, s.options, s.headers,
        (SELECT coalesce(json_agg(json_build_array(k.tick_at, k.id, k.status, k.wall) ORDER BY k.tick_at DESC), '[]') FROM (
            SELECT t.tick_at, t.id, t.status, t.ledger -> 'wall' AS wall FROM {schema}.pq_tasks t
            WHERE t.schedule_id = s.id ORDER BY t.tick_at DESC LIMIT 50) k) AS ticks
    FROM chosen s ORDER BY s.name COLLATE "C", s.key COLLATE "C"
) r
