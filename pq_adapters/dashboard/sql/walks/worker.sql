-- What a worker runs, then what it ran in attempts that are recorded, the latest first; each task once. Looks at attempts
-- of all workers in the order of their ids, and gives a row without a task for those of others: they count against the
-- budget. A success at the first try is not recorded, and its task no longer knows its worker.
SELECT t.*, json_build_array(s.place) AS place FROM (
    SELECT s.place, s.task_id FROM (
        SELECT r.id + 4611686018427387904 AS place, r.id AS task_id FROM {schema}.pq_tasks r
        WHERE r.status = 'running' AND r.worker_id = (SELECT cast(p ->> 'worker' AS bigint) FROM input)
        UNION ALL
        SELECT a.id, CASE WHEN a.worker_id = (SELECT cast(p ->> 'worker' AS bigint) FROM input) AND NOT EXISTS (
                SELECT FROM {schema}.pq_attempts b
                WHERE b.task_id = a.task_id AND b.fence > a.fence AND b.worker_id = a.worker_id)
            AND NOT EXISTS (SELECT FROM {schema}.pq_tasks r
                WHERE r.id = a.task_id AND r.status = 'running' AND r.worker_id = a.worker_id) THEN a.task_id END
        FROM {schema}.pq_attempts a
    ) s WHERE {bounds} ORDER BY s.place DESC LIMIT {budget}
) s LEFT JOIN LATERAL (SELECT t.* FROM {schema}.pq_tasks t WHERE t.id = s.task_id OFFSET 0) t ON true
ORDER BY s.place DESC
