-- Failed tasks by function and fingerprint, the group that failed last first: of those that ended since `since`, the
-- newest `looked_at` at most. One row per group, and in each how many were looked at in all. `trend`: failures by bucket,
-- the oldest first.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), span AS MATERIALIZED (
    SELECT cast(p ->> 'since' AS timestamptz) AS since, cast(p ->> 'until' AS timestamptz) AS until,
        cast(p ->> 'buckets' AS integer) AS buckets, cast(p ->> 'limit' AS integer) AS limit
    FROM input
), failed AS MATERIALIZED (
    SELECT t.id, t.name, coalesce(t.error_fingerprint, '') AS fingerprint, t.completed_at
    FROM {schema}.pq_tasks t
    WHERE t.status = 'failed' AND t.completed_at >= (SELECT since FROM span)
    ORDER BY t.completed_at DESC LIMIT {looked_at}
), groups AS (
    SELECT f.name, f.fingerprint, count(*) AS count, min(f.completed_at) AS first, max(f.completed_at) AS last,
        (array_agg(f.id ORDER BY f.completed_at DESC))[1] AS sample
    FROM failed f GROUP BY f.name, f.fingerprint
    ORDER BY max(f.completed_at) DESC LIMIT (SELECT s.limit FROM span s)
), trends AS (
    SELECT b.name, b.fingerprint, json_object_agg(b.bucket, b.count) AS trend FROM (
        SELECT f.name, f.fingerprint, width_bucket(extract(epoch FROM f.completed_at)::double precision,
            extract(epoch FROM s.since)::double precision, extract(epoch FROM s.until)::double precision + 1, s.buckets)
            AS bucket, count(*) AS count
        FROM failed f CROSS JOIN span s GROUP BY 1, 2, 3) b
    GROUP BY b.name, b.fingerprint
)
SELECT cast(row_to_json(r) AS text) FROM (
    SELECT g.*, d.trend, t.outcome, t.ledger, cast(t.options ->> 'memory_limit' AS double precision) AS memory_limit,
        coalesce(t.options -> 'sensitive' = 'true', false) AS sensitive,
        CASE WHEN t.options -> 'sensitive' = 'true' THEN substring(t.error FROM '^[^\n]*')
            WHEN length(t.error) <= 6000 THEN t.error ELSE left(t.error, 1000) || E'\n' || right(t.error, 5000) END AS error,
        (SELECT count(*) FROM failed) AS seen
    FROM groups g JOIN {schema}.pq_tasks t ON t.id = g.sample
        LEFT JOIN trends d ON d.name = g.name AND d.fingerprint = g.fingerprint
    ORDER BY g.last DESC
) r
