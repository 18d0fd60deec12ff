-- What attempts came to: sums of pq_statistics over a time, by time, queue, name and outcome, each of them if asked for,
-- and the histograms of the rows behind one another, as text: adding them up is much cheaper where they are read. One row
-- per group, in order.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), span AS MATERIALIZED (
    SELECT coalesce(cast(p ->> 'since' AS timestamptz),
            clock_timestamp() - cast(p ->> 'last' AS double precision) * interval '1 second') AS since,
        coalesce(cast(p ->> 'until' AS timestamptz), 'infinity') AS until
    FROM input
), source AS (
    {source}
), sums AS (
    SELECT {time} AS time, {queue} AS queue, {name} AS name, {outcome} AS outcome, sum(s.count) AS count,
        sum(s.wait_seconds) AS wait_seconds, sum(s.run_seconds) AS run_seconds, sum(s.cpu_seconds) AS cpu_seconds,
        {waits} AS waits, {runs} AS runs, {memory} AS memory
    FROM source s
    WHERE {conditions}
    GROUP BY 1, 2, 3, 4
)
SELECT cast(row_to_json(s) AS text) FROM sums s ORDER BY s.time, s.queue COLLATE "C", s.name COLLATE "C", s.outcome
