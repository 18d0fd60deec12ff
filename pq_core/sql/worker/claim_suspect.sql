-- Claim one task that was lost twice or more, for a worker that runs nothing else. Invariant: as in
-- claim_one_queue.sql; `alone` tells the rescuer whose fault the next loss is.
--
-- $1 bigint worker  $2 text[] queues  $3 integer[] lowest, $4 integer[] highest
-- priority of each band  $5 timestamptz when the worker's lease began
UPDATE {schema}.pq_tasks t
SET status = 'running', worker_id = $1::bigint, fence = t.fence + 1, attempts = t.attempts + 1, alone = true,
    started_at = clock_timestamp(), outcome = NULL, progress = NULL, progress_message = NULL
WHERE t.id = ANY (ARRAY(
    SELECT s.id FROM {schema}.pq_tasks s
    WHERE s.status = 'pending' AND s.losses >= 2 AND s.run_at <= clock_timestamp() AND s.queue = ANY ($2::text[])
        AND EXISTS (SELECT FROM unnest($3::integer[], $4::integer[]) b(low, high) WHERE s.priority BETWEEN b.low AND b.high)
        AND NOT EXISTS (SELECT FROM {schema}.pq_queues q WHERE q.name = s.queue AND (q.paused_at IS NOT NULL
            OR q.concurrency_limit IS NOT NULL OR q.rate_limit IS NOT NULL OR q.paused_until > clock_timestamp()))
        AND EXISTS (SELECT FROM {schema}.pq_workers w WHERE w.id = $1::bigint AND w.started_at = $5::timestamptz AND w.expires_at > clock_timestamp()
            FOR KEY SHARE SKIP LOCKED)
    ORDER BY s.priority DESC, s.run_at LIMIT 1 FOR UPDATE OF s SKIP LOCKED))
RETURNING t.id, t.name, t.queue, t.priority, t.fence, t.attempts AS number, t.max_attempts, t.payload::text AS payload,
    t.headers::text AS headers, t.version, t.run_at, t.created_at, t.started_at, t.client_id,
    t.max_runtime_seconds AS timeout, t.options::text AS options, t.losses, t.snoozes, t.schedule_id, t.tick_at,
    t.on_lost, extract(epoch FROM clock_timestamp() - t.unroutable_since)::double precision AS unroutable;
