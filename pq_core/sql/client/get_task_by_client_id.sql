-- The newest task with a client_id: no row or one. Two branches, as the two partial indexes have it.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) ->> 0 AS client_id), named AS (
    (SELECT t.id FROM {schema}.pq_tasks t WHERE t.client_id = (SELECT client_id FROM input)
        AND (t.client_id_unique = 'retained' OR t.status IN ('pending', 'running', 'blocked'))
    ORDER BY t.id DESC LIMIT 1)
    UNION ALL
    (SELECT t.id FROM {schema}.pq_tasks t WHERE t.client_id = (SELECT client_id FROM input)
        AND t.client_id_unique = 'unfinished'
    ORDER BY t.id DESC LIMIT 1)
)
SELECT cast(row_to_json(t) AS text) FROM {schema}.pq_tasks t WHERE t.id = (SELECT max(id) FROM named)
