-- A table as busy systems have it: {tasks} tasks, nearly all finished, spread over 40 functions (a few of them do most of the
-- work), 6 queues and 30 days; 5 % failed for 60 reasons, 3 % waiting, some running; 30 schedules; 12 workers ended
-- all of it, but for the few that worker 13 did before it left.
INSERT INTO {schema}.pq_periodic (name, key, payload, cron, timezone, next_run, last_run, queue)
SELECT 'jobs.report_' || (i % 10), 'key ' || i, '{"args": [], "kwargs": {}}', '*/5 * * * *', 'Europe/Berlin',
    now() + i * interval '1 minute', now() - i * interval '1 minute', 'reports'
FROM generate_series(1, 30) i;

INSERT INTO {schema}.pq_workers (expires_at, lease, pid, concurrency, name, host, app, pq_version, queues)
SELECT now() + interval '1 day', interval '30 seconds', 1000 + i, 4, 'worker ' || i, 'host-' || (i % 3), 'bench', '0',
    '{default,mail,reports,media,import,search}'
FROM generate_series(1, 12) i;

INSERT INTO {schema}.pq_tasks (status, outcome, name, queue, priority, payload, created_at, run_at, started_at,
    completed_at, due, attempts, max_attempts, fence, worker_id, schedule_id, tick_at, client_id, client_id_unique, error,
    error_fingerprint, ledger, progress, result)
SELECT
    kind, CASE kind WHEN 'completed' THEN 'succeeded' WHEN 'failed' THEN 'raised' WHEN 'cancelled' THEN 'cancelled' END,
    'jobs.' || (ARRAY['send_mail', 'index_page', 'resize_image', 'charge_card', 'sync_contact'])[1 + h % 5]
        || CASE WHEN h % 7 = 0 THEN '_' || h / 7 % 35 ELSE '' END,
    (ARRAY['default', 'mail', 'reports', 'media', 'import', 'search'])[1 + h / 64 % 6],
    (ARRAY[50, 50, 50, 50, 75, 25, 0, 100])[1 + h / 512 % 8],
    jsonb_build_object('args', jsonb_build_array(n), 'kwargs', jsonb_build_object('copy', true)),
    at, at + CASE WHEN kind = 'pending' AND n % 3 = 0 THEN interval '31 days' ELSE interval '0' END,
    CASE WHEN kind <> 'pending' THEN at + interval '1 second' END,
    CASE WHEN kind NOT IN ('pending', 'running') THEN at + interval '3 seconds' END,
    NOT (kind = 'pending' AND n % 3 = 0), CASE kind WHEN 'pending' THEN 0 ELSE 1 END, 3,
    CASE kind WHEN 'pending' THEN 0 ELSE 1 END,
    CASE WHEN kind <> 'pending' THEN CASE n % 50000 WHEN 7 THEN 13 ELSE 1 + n % 12 END END,
    CASE WHEN n % 20 = 0 THEN 1 + n / 20 % 30 END, CASE WHEN n % 20 = 0 THEN at END,
    CASE WHEN n % 10 = 1 THEN 'order-' || n END, CASE WHEN n % 10 = 1 THEN 'unfinished' END,
    CASE WHEN kind = 'failed' THEN E'Traceback (most recent call last):\n' || repeat('  File "jobs.py", line ' || n % 60
        || E', in work\n    call(argument)\n', 12) || 'ValueError: no such thing as ' || n END,
    CASE WHEN kind = 'failed' THEN md5((n % 60)::text) END,
    CASE WHEN kind NOT IN ('pending', 'running') THEN
        '{"wall": 1.5, "cpu_user": 0.4, "cpu_system": 0.1, "peak_memory": 31457280}'::jsonb END,
    CASE WHEN kind = 'running' THEN 0.4 END, CASE WHEN kind = 'completed' THEN '"done"'::jsonb END
FROM (
    SELECT n, abs(hashint8(n)::bigint) AS h, now() - interval '30 days' * (1 - n / {tasks}::double precision) AS at, CASE
        WHEN n > {tasks} - 40 THEN 'running'
        WHEN n > {tasks} * 0.97 THEN 'pending'
        WHEN abs(hashint8(n + 1)::bigint) % 20 = 7 THEN 'failed'
        WHEN abs(hashint8(n + 2)::bigint) % 200 = 3 THEN 'cancelled' ELSE 'completed' END AS kind
    FROM generate_series(1, {tasks}) n
) rows;

INSERT INTO {schema}.pq_attempts (task_id, fence, number, worker_id, outcome, started_at, finished_at, error, fingerprint)
SELECT t.id, 1, 1, 1 + t.id % 12, 'raised', t.started_at, t.completed_at, t.error, t.error_fingerprint
FROM {schema}.pq_tasks t WHERE t.status = 'failed';

-- What waits under limits of its own: a hundredth as many, half of them under one key, the others under 2,000.
INSERT INTO {schema}.pq_tasks (name, queue, payload, run_at, due, options)
SELECT 'jobs.fetch', (ARRAY['import', 'search'])[1 + n % 2], '{"args": [], "kwargs": {}}', now() - interval '1 minute', true,
    jsonb_build_object('limits', jsonb_build_object('key', CASE WHEN n % 4 < 2 THEN 'tenant' ELSE 'tenant ' || n % 2000 END,
        'at_once', 3))
FROM generate_series(1, {tasks} / 100) n;
