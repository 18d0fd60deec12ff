-- One task by id: no row or one.
SELECT cast(row_to_json(t) AS text) FROM {schema}.pq_tasks t
WHERE t.id = cast(cast(cast({parameters} AS text) AS jsonb) AS bigint)
