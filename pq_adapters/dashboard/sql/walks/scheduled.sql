-- What waits for its time, the next one first.
SELECT t.*, json_build_array(t.run_at, t.id) AS place FROM {schema}.pq_tasks t
WHERE t.status = 'pending' AND NOT t.due AND {bounds} ORDER BY t.run_at, t.id LIMIT {budget}
