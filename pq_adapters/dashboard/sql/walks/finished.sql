-- Tasks of one finished state, the one that ended last first; with a name in the bounds pq_tasks_named serves.
SELECT t.*, json_build_array(t.completed_at, t.id) AS place FROM {schema}.pq_tasks t
WHERE t.status IN ('completed', 'failed', 'cancelled') AND {bounds}
ORDER BY t.completed_at DESC, t.id DESC LIMIT {budget}
