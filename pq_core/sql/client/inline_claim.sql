-- Claim the best ready task of all queues, or of those given, for `run_inline`, which has no lease. Invariant: as in
-- worker/claim_one_queue.sql, whose update follows here. Those that were lost are taken as well, and what has just
-- become due without waiting for `due` to be set; one after another, nothing exceeds a limit.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), ready AS MATERIALIZED (
    SELECT t.ctid AS spot FROM {schema}.pq_tasks t, input
    WHERE (t.status = 'pending' OR (t.status = 'blocked' AND t.lane IS NOT NULL)) AND t.run_at <= statement_timestamp()
        AND (p ->> 'queues' IS NULL OR p -> 'queues' ? t.queue)
        AND NOT EXISTS (SELECT FROM {schema}.pq_queues q WHERE q.name = t.queue AND (q.paused_at IS NOT NULL OR q.paused_until > statement_timestamp()))
    ORDER BY -cast(t.priority AS integer), t.run_at, t.id
    LIMIT 1
    FOR UPDATE OF t SKIP LOCKED
{claimed}
SELECT cast(to_json(c) AS text) FROM claimed c
