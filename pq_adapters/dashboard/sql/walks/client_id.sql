-- The tasks with one client_id, newest first. Spelt as the two partial indexes are, so that they serve.
SELECT t.*, json_build_array(t.id) AS place FROM {schema}.pq_tasks t
WHERE ((t.client_id = (SELECT p ->> 'client_id' FROM input) AND t.client_id_unique = 'unfinished')
    OR (t.client_id = (SELECT p ->> 'client_id' FROM input)
        AND (t.client_id_unique = 'retained' OR t.status IN ('pending', 'running', 'blocked')))) AND {bounds}
ORDER BY t.id DESC LIMIT {budget}
