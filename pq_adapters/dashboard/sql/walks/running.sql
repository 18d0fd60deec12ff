-- What runs, the one that started last first: few, whatever is in the table.
SELECT t.*, json_build_array(t.started_at, t.id) AS place FROM {schema}.pq_tasks t
WHERE t.status = 'running' AND {bounds} ORDER BY t.started_at DESC, t.id DESC LIMIT {budget}
