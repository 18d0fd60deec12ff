-- Claim up to $5 ready tasks as claim_many_queues.sql does, by the priority that they have with their waiting counted: for
-- every $6 seconds since its run_at a task counts one band (25) more, up to 100. Invariant: as in claim_one_queue.sql.
--
-- $1 bigint worker  $2 text[] queues  $3 integer[] lowest, $4 integer[] highest priority of each band
-- $5 integer how many at most  $6 double precision seconds  $7 timestamptz when the worker's lease began
-- $8 jsonb what its code can't run: name -> lowest version (NULL: nothing)
--
-- Within one queue and one priority the order is that of the index, whatever the waiting. So the best are among the first
-- of each queue and priority that has something; these pairs are found by hopping from one to the next in the index.
WITH RECURSIVE lease AS MATERIALIZED (
    -- Locked where `ready` meets its first row, as in claim_one_queue.sql.
    SELECT 2 AS bound FROM {schema}.pq_workers w
    WHERE w.id = $1::bigint AND w.started_at = $7::timestamptz AND w.expires_at > clock_timestamp()
    FOR KEY SHARE SKIP LOCKED
), levels AS (
    SELECT q.name AS queue, (SELECT -t.priority::integer FROM {schema}.pq_tasks t
        WHERE t.status = 'pending' AND t.due AND t.losses < 2 AND t.queue = q.name
        ORDER BY -t.priority::integer LIMIT 1) AS rank
    FROM unnest($2::text[]) q(name)
    WHERE q.name <> ALL (ARRAY(SELECT p.name FROM {schema}.pq_queues p WHERE p.paused_at IS NOT NULL
        OR p.concurrency_limit IS NOT NULL OR p.rate_limit IS NOT NULL OR p.paused_until > clock_timestamp()))
    UNION ALL
    SELECT l.queue, (SELECT -t.priority::integer FROM {schema}.pq_tasks t
        WHERE t.status = 'pending' AND t.due AND t.losses < 2 AND t.queue = l.queue
            AND -t.priority::integer > l.rank
        ORDER BY -t.priority::integer LIMIT 1)
    FROM levels l WHERE l.rank IS NOT NULL
), best AS MATERIALIZED (
    -- Some more than asked for: others may hold locks on the best.
    SELECT c.spot, c.counts FROM (
        SELECT t.spot, t.run_at, t.id, least(-l.rank + 25 * floor(greatest(
            extract(epoch FROM statement_timestamp() - t.run_at)::double precision, 0) / $6::double precision),
            greatest(100, -l.rank)) AS counts
        FROM levels l CROSS JOIN LATERAL (
            SELECT t.ctid AS spot, t.run_at, t.id FROM {schema}.pq_tasks t
            WHERE t.status = 'pending' AND t.due AND t.losses < 2
                AND t.queue = l.queue AND -t.priority::integer = l.rank
                AND (($8::jsonb ->> t.name)::integer <= t.version) IS NOT TRUE
            ORDER BY t.run_at, t.id
            LIMIT $5::integer + 20
        ) t
        WHERE EXISTS (SELECT FROM unnest($3::integer[], $4::integer[]) b(low, high) WHERE -l.rank BETWEEN b.low AND b.high)
    ) c
    ORDER BY c.counts DESC, c.run_at, c.id
    LIMIT $5::integer + 20
), ready AS MATERIALIZED (
    -- As in claim_many_queues.sql.
    SELECT t.ctid AS spot
    FROM {schema}.pq_tasks t
    WHERE t.ctid = ANY (ARRAY(SELECT b.spot FROM best b))
        AND t.status = 'pending' AND t.due IS NOT FALSE AND t.losses < (SELECT l.bound FROM lease l)
    ORDER BY (SELECT b.counts FROM best b WHERE b.spot = t.ctid) DESC, t.run_at, t.id
    LIMIT $5::integer
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
