-- What a worker tried, and did not run or end last: the latest attempt first, each task once. Looks at recorded attempts of
-- all workers in the order of their ids, and gives a row without a task for all others: they count against the budget.
SELECT t.*, json_build_array(s.place) AS place FROM (
    SELECT a.id AS place, CASE WHEN a.worker_id = (SELECT cast(p ->> 'worker' AS bigint) FROM input) AND NOT EXISTS (
            SELECT FROM {schema}.pq_attempts b
            WHERE b.task_id = a.task_id AND b.fence > a.fence AND b.worker_id = a.worker_id) THEN a.task_id END AS task_id
    FROM {schema}.pq_attempts a WHERE {bounds} ORDER BY a.id DESC LIMIT {budget}
) s LEFT JOIN LATERAL (SELECT t.* FROM {schema}.pq_tasks t
    WHERE t.id = s.task_id AND t.worker_id IS DISTINCT FROM (SELECT cast(p ->> 'worker' AS bigint) FROM input) OFFSET 0) t ON true
ORDER BY s.place DESC
