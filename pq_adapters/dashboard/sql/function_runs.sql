-- What the newest ended tasks of one function used: the ledger of each, the one that ended last first, {looked_at} at most of
-- each state. Served by pq_tasks_named.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p)
SELECT cast(json_build_array(r.id, r.status, r.completed_at, r.wall, r.cpu, r.memory) AS text)
FROM (VALUES ('completed'), ('failed'), ('cancelled')) s(status) CROSS JOIN LATERAL (
    SELECT t.id, t.status, t.completed_at, cast(t.ledger -> 'wall' AS double precision) AS wall,
        cast(t.ledger -> 'cpu_user' AS double precision) + cast(t.ledger -> 'cpu_system' AS double precision) AS cpu,
        cast(t.ledger -> 'peak_memory' AS double precision) AS memory
    FROM {schema}.pq_tasks t
    WHERE t.name = (SELECT p ->> 'name' FROM input) AND t.status = s.status
        AND t.status IN ('completed', 'failed', 'cancelled')
    ORDER BY t.completed_at DESC LIMIT {looked_at}
) r WHERE r.wall IS NOT NULL
ORDER BY r.completed_at DESC LIMIT {looked_at}
