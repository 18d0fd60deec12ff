-- Tasks of one finished state in any order: for counting, out of the index alone.
SELECT t.*, json_build_array(0) AS place FROM {schema}.pq_tasks t
WHERE t.status IN ('completed', 'failed', 'cancelled') AND {bounds} LIMIT {budget}
