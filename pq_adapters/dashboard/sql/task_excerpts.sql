-- Tasks that match, in the order `{order}`, at most `limit`.
-- Invariant: what a row answers is bounded, however much its task holds. A document of more than {most} bytes is left out,
-- long text is cut, and `excerpts` names both. The size as stored is asked first: it is known without reading the value.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p)
SELECT cast(row_to_json(r) AS text) FROM (
    SELECT t.id, t.name, t.status, t.queue, t.priority, t.run_at, t.created_at, t.started_at, t.completed_at, t.client_id,
        t.client_id_unique, t.outcome, t.attempts, t.max_attempts, t.losses, t.snoozes, t.max_runtime_seconds, t.version,
        t.worker_id, t.fence, t.schedule_id, t.tick_at, t.cancel_requested_at, t.progress, t.options,
        CASE WHEN NOT l.payload THEN t.payload END AS payload,
        CASE WHEN NOT l.result THEN t.result END AS result,
        CASE WHEN NOT l.headers THEN t.headers END AS headers,
        CASE WHEN NOT l.ledger THEN t.ledger END AS ledger,
        CASE WHEN NOT l.error THEN t.error ELSE left(t.error, {most} / 4) || E'\n[...]\n' || right(t.error, {most} * 3 / 4) END
            AS error,
        CASE WHEN NOT l.output THEN t.output ELSE right(t.output, {most}) END AS output,
        left(t.progress_message, {most}) AS progress_message,
        array_remove(ARRAY[CASE WHEN l.payload THEN 'payload' END, CASE WHEN l.result THEN 'result' END,
            CASE WHEN l.headers THEN 'headers' END, CASE WHEN l.ledger THEN 'ledger' END,
            CASE WHEN l.error THEN 'error' END, CASE WHEN l.output THEN 'output' END,
            CASE WHEN length(t.progress_message) > {most} THEN 'progress_message' END], NULL) AS excerpts
    FROM {schema}.pq_tasks t CROSS JOIN LATERAL (SELECT
        CASE WHEN pg_column_size(t.payload) > {most} THEN true ELSE octet_length(cast(t.payload AS text)) > {most} END
            AS payload,
        CASE WHEN t.result IS NULL THEN false WHEN pg_column_size(t.result) > {most} THEN true
            ELSE octet_length(cast(t.result AS text)) > {most} END AS result,
        CASE WHEN t.headers IS NULL THEN false WHEN pg_column_size(t.headers) > {most} THEN true
            ELSE octet_length(cast(t.headers AS text)) > {most} END AS headers,
        CASE WHEN t.ledger IS NULL THEN false WHEN pg_column_size(t.ledger) > {most} THEN true
            ELSE octet_length(cast(t.ledger AS text)) > {most} END AS ledger,
        coalesce(length(t.error) > {most}, false) AS error,
        coalesce(length(t.output) > {most}, false) AS output) l
    WHERE {conditions}
    ORDER BY {order}
    LIMIT (SELECT cast(p ->> 'limit' AS bigint) FROM input)
) r
