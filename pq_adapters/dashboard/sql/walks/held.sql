-- What is due and waits for a place under limits of its own, as its index has it: by queue and by what shares a limit, in
-- the order in which it is claimed.
SELECT t.*, json_build_array(t.queue, t.lane, t.priority, t.run_at, t.id) AS place FROM {schema}.pq_tasks t
WHERE t.status = 'blocked' AND t.lane IS NOT NULL AND {bounds}
ORDER BY t.queue, t.lane, -t.priority::integer, t.run_at, t.id LIMIT {budget}
