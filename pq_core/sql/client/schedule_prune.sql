-- The schedules that an application's code once declared and does not declare any more (`declared`: name and key of
-- those it does); with `remove` they are removed. A trace of each stays, so that an older process does not bring it back.
-- One row each: id, name, key.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), gone AS MATERIALIZED (
    SELECT s.id, s.name, s.key FROM {schema}.pq_periodic s, input
    WHERE s.app = p ->> 'app' AND s.declared_by = 'code' AND s.removed_at IS NULL
        AND NOT EXISTS (SELECT FROM jsonb_array_elements(p -> 'declared') d
            WHERE d ->> 0 = s.name AND d ->> 1 = s.key)
    ORDER BY s.id
    FOR UPDATE OF s
), removed AS (
    UPDATE {schema}.pq_periodic s SET active = false, removed_at = clock_timestamp(), updated_at = clock_timestamp(),
        client_id = NULL, next_run = NULL, superseded = array_prepend(s.definition, s.superseded)
    FROM gone g, input WHERE s.id = g.id AND cast(p -> 'remove' AS boolean)
)
SELECT cast(json_build_array(g.id, g.name, g.key) AS text) FROM gone g
