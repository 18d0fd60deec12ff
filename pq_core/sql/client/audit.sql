-- Add one row to the audit log. One row: its id.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), stored AS (
    INSERT INTO {schema}.pq_audit (actor, action, target, details)
    SELECT p ->> 'actor', p ->> 'action', p ->> 'target', nullif(p -> 'details', 'null') FROM input
    RETURNING id
)
SELECT cast(s.id AS text) FROM stored s
