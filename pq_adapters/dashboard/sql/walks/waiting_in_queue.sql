-- What could run now out of one queue, in the order in which it is claimed.
SELECT t.*, json_build_array(t.priority, t.run_at, t.id) AS place FROM {schema}.pq_tasks t
WHERE t.status = 'pending' AND t.due AND t.losses < 2 AND t.queue = (SELECT p ->> 'queue' FROM input) AND {bounds}
ORDER BY -t.priority::integer, t.run_at, t.id LIMIT {budget}
