-- Set the limits of a queue, NULL for none, and wake those who sleep. One row: whether anything changed.
-- Every claim reads pq_queues, so nobody has to be told. What ran before the limit goes on, and counts.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), wanted AS (
    SELECT p ->> 'name' AS name, cast(p ->> 'concurrency' AS integer) AS concurrency, cast(p ->> 'rate' AS integer) AS rate,
        cast(p ->> 'period' AS double precision) * interval '1 second' AS period FROM input
), limited AS (
    INSERT INTO {schema}.pq_queues AS q (name, concurrency_limit, rate_limit, rate_period)
    SELECT w.name, w.concurrency, w.rate, w.period FROM wanted w
    ON CONFLICT (name) DO UPDATE SET concurrency_limit = EXCLUDED.concurrency_limit, rate_limit = EXCLUDED.rate_limit,
            rate_period = EXCLUDED.rate_period
        WHERE (q.concurrency_limit, q.rate_limit, q.rate_period)
            IS DISTINCT FROM (EXCLUDED.concurrency_limit, EXCLUDED.rate_limit, EXCLUDED.rate_period)
    RETURNING q.name
), told AS MATERIALIZED (
    SELECT pg_notify({schema}.pq_channel('wake'), l.name) FROM limited l
)
SELECT cast(to_json(EXISTS (SELECT FROM limited)) AS text) WHERE (SELECT count(*) FROM told) >= 0
