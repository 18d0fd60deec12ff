-- One task with its attempts (the last fifty), the worker that runs or ended it while it is there, and
-- its schedule. No row when there is none.
-- Invariant: what a sensitive task was given, returned and said does not leave the database.
WITH input AS (SELECT cast(cast(cast({parameters} AS text) AS jsonb) ->> 'id' AS bigint) AS id)
SELECT cast(json_build_object(
    'task', (SELECT row_to_json(r) FROM (SELECT t.id, t.name, t.queue, t.status, t.due, t.outcome, t.priority, t.run_at,
        t.created_at, t.started_at, t.completed_at, t.cancel_requested_at, t.cancel_reason, t.unroutable_since, t.fence,
        t.worker_id, t.schedule_id, t.tick_at, t.max_runtime_seconds, t.progress, t.progress_message, t.version,
        t.attempts, t.max_attempts, t.losses, t.snoozes, t.alone, t.on_lost, t.client_id, t.client_id_unique,
        t.concurrency_key, (SELECT max(l.paused_until) FROM {schema}.pq_limits l
            WHERE l.subject IN ('key:' || t.concurrency_key, 'task:' || t.name) AND l.paused_until > clock_timestamp())
            AS paused_until, t.error_fingerprint, t.headers, t.options, t.on_failure, t.ledger, s.hidden AS sensitive,
        t.parked IS NOT NULL AS parked,
        CASE WHEN NOT s.hidden THEN t.payload END AS payload, CASE WHEN NOT s.hidden THEN t.result END AS result,
        CASE WHEN NOT s.hidden THEN t.error ELSE substring(t.error FROM '^[^\n]*') END AS error,
        CASE WHEN NOT s.hidden THEN t.output END AS output) r),
    'attempts', (SELECT coalesce(json_agg(a ORDER BY a.fence), '[]') FROM (
        SELECT a.fence, a.number, a.worker_id, a.outcome, a.started_at, a.finished_at, a.fingerprint, a.ledger,
            CASE WHEN NOT s.hidden THEN a.error ELSE substring(a.error FROM '^[^\n]*') END AS error,
            CASE WHEN NOT s.hidden THEN a.output END AS output
        FROM {schema}.pq_attempts a WHERE a.task_id = t.id ORDER BY a.fence DESC LIMIT 50) a),
    'worker', (SELECT json_build_object('id', w.id, 'name', w.name, 'host', w.host)
        FROM {schema}.pq_workers w WHERE w.id = t.worker_id),
    'schedule', (SELECT json_build_object('id', p.id, 'name', p.name, 'key', p.key)
        FROM {schema}.pq_periodic p WHERE p.id = t.schedule_id AND p.removed_at IS NULL)
) AS text)
FROM input i JOIN {schema}.pq_tasks t ON t.id = i.id
CROSS JOIN LATERAL (SELECT coalesce(t.options -> 'sensitive' = 'true', false) AS hidden) s
