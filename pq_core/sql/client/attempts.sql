-- The recorded attempts of one task, oldest first: every attempt that was not a first-try success.
SELECT cast(row_to_json(a) AS text) FROM {schema}.pq_attempts a
WHERE a.task_id = cast(cast(cast({parameters} AS text) AS jsonb) AS bigint)
ORDER BY a.fence, a.id
