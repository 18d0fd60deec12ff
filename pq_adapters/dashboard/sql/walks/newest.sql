-- All tasks, newest first.
SELECT t.*, json_build_array(t.id) AS place FROM {schema}.pq_tasks t WHERE {bounds} ORDER BY t.id DESC LIMIT {budget}
