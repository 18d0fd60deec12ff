-- How far a task says it is: no row or one, without the payload and the result.
SELECT cast(json_build_array(t.progress, t.progress_message) AS text) FROM {schema}.pq_tasks t
WHERE t.id = cast(cast(cast({parameters} AS text) AS jsonb) AS bigint)
