-- Merge the rows of single workers into one per minute (its worker is 0), and into one per hour; drop what is too old.
-- Invariant: a row of a worker is not in the hours, a row of worker 0 is. Only minutes that no worker writes any more
-- are taken (see statistics_put.sql), a limited number of rows at once, by one worker at a time. What is dropped of the
-- hours goes into the hour -infinity: sums over everything never shrink.
--
-- $1 double precision  seconds for which rows are kept; NULL: for ever
-- Returns whether there may be more to merge or to drop.
WITH mine AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock(hashtextextended({schema}.pq_channel('statistics'), 0)) AS held
), spots AS MATERIALIZED (
    SELECT s.ctid AS spot FROM {schema}.pq_statistics s
    WHERE s.worker_id <> 0 AND s.minute < clock_timestamp() - interval '10 minutes' AND (SELECT held FROM mine)
    ORDER BY s.minute LIMIT 500
), taken AS (
    DELETE FROM {schema}.pq_statistics s WHERE s.ctid = ANY (ARRAY(SELECT p.spot FROM spots p))
    RETURNING s.*
), minutes AS (
    INSERT INTO {schema}.pq_statistics AS s (minute, worker_id, queue, name, outcome, count, wait_seconds, run_seconds,
        cpu_seconds, wait_histogram, run_histogram, memory_histogram)
    SELECT t.minute, 0, t.queue, t.name, t.outcome, sum(t.count), sum(t.wait_seconds), sum(t.run_seconds),
        sum(t.cpu_seconds), {schema}.pq_histogram(string_agg(array_to_string(t.wait_histogram, ','), ',')),
        {schema}.pq_histogram(string_agg(array_to_string(t.run_histogram, ','), ',')),
        {schema}.pq_histogram(string_agg(array_to_string(t.memory_histogram, ','), ','))
    FROM taken t GROUP BY t.minute, t.queue, t.name, t.outcome
    ON CONFLICT (minute, worker_id, queue, name, outcome) DO UPDATE SET
        count = s.count + EXCLUDED.count,
        wait_seconds = s.wait_seconds + EXCLUDED.wait_seconds,
        run_seconds = s.run_seconds + EXCLUDED.run_seconds,
        cpu_seconds = s.cpu_seconds + EXCLUDED.cpu_seconds,
        wait_histogram = {schema}.pq_histogram(concat_ws(',', array_to_string(s.wait_histogram, ','),
            array_to_string(EXCLUDED.wait_histogram, ','))),
        run_histogram = {schema}.pq_histogram(concat_ws(',', array_to_string(s.run_histogram, ','),
            array_to_string(EXCLUDED.run_histogram, ','))),
        memory_histogram = {schema}.pq_histogram(concat_ws(',', array_to_string(s.memory_histogram, ','),
            array_to_string(EXCLUDED.memory_histogram, ',')))
), hours AS (
    INSERT INTO {schema}.pq_statistics_hours AS s (hour, queue, name, outcome, count, wait_seconds, run_seconds,
        cpu_seconds, wait_histogram, run_histogram, memory_histogram)
    SELECT date_trunc('hour', t.minute, 'UTC'), t.queue, t.name, t.outcome, sum(t.count), sum(t.wait_seconds),
        sum(t.run_seconds), sum(t.cpu_seconds),
        {schema}.pq_histogram(string_agg(array_to_string(t.wait_histogram, ','), ',')),
        {schema}.pq_histogram(string_agg(array_to_string(t.run_histogram, ','), ',')),
        {schema}.pq_histogram(string_agg(array_to_string(t.memory_histogram, ','), ','))
    FROM taken t GROUP BY date_trunc('hour', t.minute, 'UTC'), t.queue, t.name, t.outcome
    ON CONFLICT (hour, queue, name, outcome) DO UPDATE SET
        count = s.count + EXCLUDED.count,
        wait_seconds = s.wait_seconds + EXCLUDED.wait_seconds,
        run_seconds = s.run_seconds + EXCLUDED.run_seconds,
        cpu_seconds = s.cpu_seconds + EXCLUDED.cpu_seconds,
        wait_histogram = {schema}.pq_histogram(concat_ws(',', array_to_string(s.wait_histogram, ','),
            array_to_string(EXCLUDED.wait_histogram, ','))),
        run_histogram = {schema}.pq_histogram(concat_ws(',', array_to_string(s.run_histogram, ','),
            array_to_string(EXCLUDED.run_histogram, ','))),
        memory_histogram = {schema}.pq_histogram(concat_ws(',', array_to_string(s.memory_histogram, ','),
            array_to_string(EXCLUDED.memory_histogram, ',')))
), old_minutes AS (
    DELETE FROM {schema}.pq_statistics s WHERE s.ctid = ANY (ARRAY(
        SELECT o.ctid FROM {schema}.pq_statistics o
        WHERE o.worker_id = 0 AND o.minute < clock_timestamp() - $1::double precision * interval '1 second'
            AND (SELECT held FROM mine)
        ORDER BY o.minute LIMIT 2000))
    RETURNING 1
), old_hours AS (
    DELETE FROM {schema}.pq_statistics_hours s WHERE s.ctid = ANY (ARRAY(
        SELECT o.ctid FROM {schema}.pq_statistics_hours o
        WHERE o.hour < clock_timestamp() - $1::double precision * interval '1 second' AND o.hour > '-infinity'
            AND (SELECT held FROM mine)
        ORDER BY o.hour LIMIT 2000))
    RETURNING s.*
), totals AS (
    INSERT INTO {schema}.pq_statistics_hours AS s (hour, queue, name, outcome, count, wait_seconds, run_seconds,
        cpu_seconds, wait_histogram, run_histogram, memory_histogram)
    SELECT '-infinity', t.queue, t.name, t.outcome, sum(t.count), sum(t.wait_seconds),
        sum(t.run_seconds), sum(t.cpu_seconds),
        {schema}.pq_histogram(string_agg(array_to_string(t.wait_histogram, ','), ',')),
        {schema}.pq_histogram(string_agg(array_to_string(t.run_histogram, ','), ',')),
        {schema}.pq_histogram(string_agg(array_to_string(t.memory_histogram, ','), ','))
    FROM old_hours t GROUP BY t.queue, t.name, t.outcome
    ON CONFLICT (hour, queue, name, outcome) DO UPDATE SET
        count = s.count + EXCLUDED.count,
        wait_seconds = s.wait_seconds + EXCLUDED.wait_seconds,
        run_seconds = s.run_seconds + EXCLUDED.run_seconds,
        cpu_seconds = s.cpu_seconds + EXCLUDED.cpu_seconds,
        wait_histogram = {schema}.pq_histogram(concat_ws(',', array_to_string(s.wait_histogram, ','),
            array_to_string(EXCLUDED.wait_histogram, ','))),
        run_histogram = {schema}.pq_histogram(concat_ws(',', array_to_string(s.run_histogram, ','),
            array_to_string(EXCLUDED.run_histogram, ','))),
        memory_histogram = {schema}.pq_histogram(concat_ws(',', array_to_string(s.memory_histogram, ','),
            array_to_string(EXCLUDED.memory_histogram, ',')))
)
SELECT (SELECT count(*) FROM taken) >= 500 OR (SELECT count(*) FROM old_minutes) >= 2000
    OR (SELECT count(*) FROM old_hours) >= 2000 AS more;
