-- Renew a worker's lease. Invariant: no row means that the lease is gone: somebody has given the worker up for dead. An id
-- alone names no lease: a sequence that lost a part of its history gives the same one to another worker.
--
-- $1 bigint worker  $2 boolean draining  $3 integer[] lowest, $4 integer[] highest priority of each band that it takes
-- $5 timestamptz when the lease began  $6 timestamptz its last renewal that this worker was told of (NULL: none)
-- Returns whether it was asked to drain, whether to stop at once, seconds until the next other lease ends (NULL: no
-- other), whether suspect tasks wait for an idle worker, when this renewal was, and whether $6 never happened here: the
-- database went back to an earlier time.
WITH mine AS MATERIALIZED (
    SELECT o.id, o.heartbeat_at < $6::timestamptz AS behind FROM {schema}.pq_workers o
    WHERE o.id = $1::bigint AND o.started_at = $5::timestamptz
    FOR NO KEY UPDATE
)
UPDATE {schema}.pq_workers w
SET heartbeat_at = clock_timestamp(),
    expires_at = clock_timestamp() + w.lease,
    continuous_since = CASE WHEN w.expires_at < clock_timestamp() THEN clock_timestamp() ELSE w.continuous_since END,
    draining = $2::boolean
FROM mine
WHERE w.id = mine.id
RETURNING w.drain_requested, w.stop_requested,
    (SELECT extract(epoch FROM min(o.expires_at) - clock_timestamp())::double precision FROM {schema}.pq_workers o WHERE o.id <> w.id),
    EXISTS (SELECT FROM {schema}.pq_tasks t WHERE t.status = 'pending' AND t.losses >= 2 AND t.run_at <= clock_timestamp()
        AND t.queue = ANY (w.queues)
        AND NOT EXISTS (SELECT FROM {schema}.pq_queues q WHERE q.name = t.queue AND (q.paused_at IS NOT NULL
            OR q.concurrency_limit IS NOT NULL OR q.rate_limit IS NOT NULL OR q.paused_until > clock_timestamp()))
        AND EXISTS (SELECT FROM unnest($3::integer[], $4::integer[]) b(low, high) WHERE t.priority BETWEEN b.low AND b.high)),
    w.heartbeat_at, coalesce(mine.behind, false);
