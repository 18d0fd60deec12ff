-- Enqueue one task. One row: its id, or that of the task that has its client_id, and whether it was so.
SELECT cast(json_build_array(r.id, r.duplicate) AS text)
FROM {schema}.pq_enqueue(cast(cast({parameters} AS text) AS jsonb)) AS r
