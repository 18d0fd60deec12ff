-- How many tasks ended within the last `seconds`, by state: one row each with state and number. Reads the end of
-- pq_tasks_ended alone.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p)
SELECT cast(json_build_array(s.status, (
    SELECT count(*) FROM {schema}.pq_tasks t WHERE t.status = s.status
        AND t.status IN ('completed', 'failed', 'cancelled')
        AND t.completed_at > clock_timestamp() - cast(p ->> 'seconds' AS double precision) * interval '1 second'
)) AS text)
FROM input, unnest(ARRAY['completed', 'failed', 'cancelled']) s(status)
