-- Names of task functions that have ended tasks, by name, 200 at most: each is found behind the last in pq_tasks_named.
WITH RECURSIVE input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), names(name, n) AS (
    (SELECT t.name, 1 FROM {schema}.pq_tasks t
    WHERE t.status IN ('completed', 'failed', 'cancelled') ORDER BY t.name LIMIT 1)
    UNION ALL
    SELECT (SELECT t.name FROM {schema}.pq_tasks t
        WHERE t.status IN ('completed', 'failed', 'cancelled') AND t.name > n.name ORDER BY t.name LIMIT 1), n.n + 1
    FROM names n WHERE n.name IS NOT NULL AND n.n < 200
)
SELECT cast(json_build_array(name) AS text) FROM names WHERE name IS NOT NULL
