-- What could run now, in any order: for counting.
SELECT t.*, json_build_array(t.id) AS place FROM {schema}.pq_tasks t
WHERE t.status = 'pending' AND t.due AND t.losses < 2 AND {bounds} LIMIT {budget}
