-- What twelve workers would have kept of a day's minutes and thirty days' hours: 25 functions, each in one queue.
INSERT INTO {schema}.pq_statistics (minute, worker_id, queue, name, outcome, count, wait_seconds, run_seconds, cpu_seconds,
    wait_histogram, run_histogram, memory_histogram)
SELECT date_trunc('minute', now()) - m * interval '1 minute', CASE WHEN m < 10 THEN w ELSE 0 END,
    (ARRAY['default', 'mail', 'reports', 'media', 'import', 'search'])[1 + f % 6],
    'jobs.' || (ARRAY['send_mail', 'index_page', 'resize_image', 'charge_card', 'sync_contact'])[1 + f % 5]
        || CASE WHEN f >= 5 THEN '_' || f ELSE '' END,
    o.outcome, o.count, o.count, o.count * 1.5, o.count * 0.5,
    ARRAY[30, o.count / 4, 34, o.count / 4, 38, o.count / 4, 44, o.count / 4],
    ARRAY[40, o.count / 8, 44, o.count / 4, 46, o.count / 4, 48, o.count / 4, 50, o.count / 8],
    ARRAY[30, o.count / 2, 34, o.count / 2]
FROM generate_series(0, 1439) m, generate_series(0, 24) f,
    LATERAL (VALUES ('succeeded', 80), ('raised', 8)) o(outcome, count),
    LATERAL generate_series(1, CASE WHEN m < 10 THEN 12 ELSE 1 END) w;

INSERT INTO {schema}.pq_statistics_hours (hour, queue, name, outcome, count, wait_seconds, run_seconds, cpu_seconds,
    wait_histogram, run_histogram, memory_histogram)
SELECT date_trunc('hour', now(), 'UTC') - h * interval '1 hour',
    (ARRAY['default', 'mail', 'reports', 'media', 'import', 'search'])[1 + f % 6],
    'jobs.' || (ARRAY['send_mail', 'index_page', 'resize_image', 'charge_card', 'sync_contact'])[1 + f % 5]
        || CASE WHEN f >= 5 THEN '_' || f ELSE '' END,
    o.outcome, o.count, o.count, o.count * 1.5, o.count * 0.5,
    ARRAY[30, o.count / 4, 34, o.count / 4, 38, o.count / 4, 44, o.count / 4],
    ARRAY[40, o.count / 8, 44, o.count / 4, 46, o.count / 4, 48, o.count / 4, 50, o.count / 8],
    ARRAY[30, o.count / 2, 34, o.count / 2]
FROM generate_series(0, 719) h, generate_series(0, 24) f,
    LATERAL (VALUES ('succeeded', 4800), ('raised', 480)) o(outcome, count);
