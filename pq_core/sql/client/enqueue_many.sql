-- Enqueue an array of tasks. One row: the ids in the order given (null where nothing was stored because another task
-- of an all-or-none batch was a duplicate), and the positions, from 1, of those whose client_id was taken.
SELECT cast(json_build_object('ids', array_agg(r.id ORDER BY r.n),
    'duplicates', array_agg(r.n ORDER BY r.n) FILTER (WHERE r.duplicate)) AS text)
FROM {schema}.pq_enqueue(cast(cast({parameters} AS text) AS jsonb)) WITH ORDINALITY AS r(id, duplicate, n)
