-- What could run now, in the order in which it is claimed. The index knows it queue by queue, so each queue gives its
-- best, as little of each row as can be sorted; those that are claimed alone are few.
SELECT t.*, json_build_array(t.priority, t.run_at, t.id) AS place FROM (
    SELECT n.id FROM (
        SELECT b.rank, b.run_at, b.id FROM (
            WITH RECURSIVE ready(name) AS (
                (SELECT t.queue FROM {schema}.pq_tasks t
                WHERE t.status = 'pending' AND t.due AND t.losses < 2 ORDER BY t.queue LIMIT 1)
                UNION ALL
                SELECT (SELECT t.queue FROM {schema}.pq_tasks t
                    WHERE t.status = 'pending' AND t.due AND t.losses < 2 AND t.queue > r.name ORDER BY t.queue LIMIT 1)
                FROM ready r WHERE r.name IS NOT NULL
            ) SELECT name FROM ready WHERE name IS NOT NULL
        ) q CROSS JOIN LATERAL (
            SELECT -t.priority::integer AS rank, t.run_at, t.id FROM {schema}.pq_tasks t
            WHERE t.status = 'pending' AND t.due AND t.losses < 2 AND t.queue = q.name AND {bounds}
            ORDER BY -t.priority::integer, t.run_at, t.id LIMIT {budget}
        ) b
        UNION ALL
        SELECT -t.priority::integer, t.run_at, t.id FROM {schema}.pq_tasks t
        WHERE t.status = 'pending' AND t.due AND t.losses >= 2 AND {bounds}
    ) n ORDER BY n.rank, n.run_at, n.id LIMIT {budget}
) best JOIN {schema}.pq_tasks t ON t.id = best.id
ORDER BY -t.priority::integer, t.run_at, t.id
