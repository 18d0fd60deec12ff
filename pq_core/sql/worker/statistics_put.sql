-- Write what a worker's attempts came to. Invariant: the rows of a worker's minute are its own, and it writes them whole,
-- so that a write which is sent twice counts once.
--
-- $1 bigint  worker
-- $2 jsonb   the rows: minute (seconds since 1970), queue, name, outcome, count, wait, run, cpu (seconds), waits, runs,
--            memory (histograms: bucket, count, bucket, count, …)
-- Minutes that may have been merged by now are left out: they would count twice.
INSERT INTO {schema}.pq_statistics AS s (minute, worker_id, queue, name, outcome, count, wait_seconds, run_seconds,
    cpu_seconds, wait_histogram, run_histogram, memory_histogram)
SELECT to_timestamp(r.minute), $1::bigint, r.queue, r.name, r.outcome, r.count, r.wait, r.run, r.cpu, r.waits, r.runs,
    r.memory
FROM jsonb_to_recordset($2::jsonb) AS r(minute double precision, queue text, name text, outcome text, count bigint,
    wait double precision, run double precision, cpu double precision, waits integer[], runs integer[], memory integer[])
WHERE to_timestamp(r.minute) > clock_timestamp() - interval '5 minutes'
ORDER BY r.minute, r.queue, r.name, r.outcome
ON CONFLICT (minute, worker_id, queue, name, outcome) DO UPDATE SET
    count = EXCLUDED.count,
    wait_seconds = EXCLUDED.wait_seconds,
    run_seconds = EXCLUDED.run_seconds,
    cpu_seconds = EXCLUDED.cpu_seconds,
    wait_histogram = EXCLUDED.wait_histogram,
    run_histogram = EXCLUDED.run_histogram,
    memory_histogram = EXCLUDED.memory_histogram;
