-- Claim up to $3 of the tasks that an earlier search named, in its order. Invariant: as in claim_one_queue.sql; a
-- candidate that is not ready any more is passed over.
--
-- $1 bigint    worker
-- $2 bigint[]  candidates
-- $3 integer   how many at most
WITH lease AS MATERIALIZED (
    SELECT 1 FROM {schema}.pq_workers w
    WHERE w.id = $1::bigint AND w.expires_at > clock_timestamp()
    FOR KEY SHARE SKIP LOCKED
), ready AS MATERIALIZED (
    SELECT t.ctid AS spot
    FROM {schema}.pq_tasks t
    WHERE t.id = ANY ($2::bigint[])
        AND t.status = 'pending' AND t.due IS NOT FALSE AND t.losses < 2
        AND t.queue <> ALL (ARRAY(SELECT p.name FROM {schema}.pq_queues p WHERE p.paused_at IS NOT NULL
            OR p.concurrency_limit IS NOT NULL OR p.rate_limit IS NOT NULL OR p.paused_until > clock_timestamp()))
        AND EXISTS (SELECT FROM lease)
    ORDER BY -t.priority::integer, t.run_at, t.id
    LIMIT $3::integer
    FOR UPDATE OF t SKIP LOCKED
), claimed AS (
    UPDATE {schema}.pq_tasks t
    SET status = 'running',
        worker_id = $1::bigint,
        fence = t.fence + 1,
        attempts = t.attempts + 1,
        started_at = clock_timestamp(),
        outcome = NULL,
        progress = NULL,
        progress_message = NULL
    WHERE t.ctid = ANY (ARRAY(SELECT r.spot FROM ready r))
    RETURNING t.id, t.name, t.queue, t.priority, t.fence, t.attempts AS number, t.max_attempts,
        t.payload::text AS payload, t.headers::text AS headers, t.version, t.run_at, t.created_at, t.started_at,
        t.client_id, t.max_runtime_seconds AS timeout, t.options::text AS options, t.losses, t.snoozes, t.schedule_id,
        t.tick_at, t.on_lost, extract(epoch FROM clock_timestamp() - t.unroutable_since)::double precision AS unroutable
)
SELECT * FROM claimed;
