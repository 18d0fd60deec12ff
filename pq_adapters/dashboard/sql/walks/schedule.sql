-- The tasks of one schedule, the latest tick first.
SELECT t.*, json_build_array(t.tick_at, t.id) AS place FROM {schema}.pq_tasks t
WHERE t.schedule_id = (SELECT cast(p ->> 'schedule' AS bigint) FROM input) AND {bounds}
ORDER BY t.tick_at DESC, t.id DESC LIMIT {budget}
