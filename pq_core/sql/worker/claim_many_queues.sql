-- Claim up to $5 ready tasks of many queues, best first across all of them. Invariant: as in claim_one_queue.sql.
--
-- $1 bigint         worker
-- $2 text[]         the queues
-- $3 integer        lowest priority it takes
-- $4 integer        highest priority it takes
-- $5 integer        how many at most
-- $6 integer[]      priority, $7 timestamptz[] run_at, $8 bigint[] id of the task after which the search begins in each
--                   queue (NULL where it begins at the start; '{{}}' for all from the start)
-- $9 timestamptz    when the worker's lease began
-- $10 jsonb         what its code can't run: name -> lowest version (NULL: nothing)
--
-- A search costs 10 to 20 µs for each queue that has work and 3 to 5 µs for each that has none (docs/adr/0001-schema.md).
-- It is a merge in two rounds: a share of every queue; then more of those queues alone whose share might not be enough,
-- no further than the worst task that can still be wanted. What is locked is the best $5 of them that nobody else has
-- locked.
WITH lease AS MATERIALIZED (
    -- Locked where `ready` meets its first row, as in claim_one_queue.sql.
    SELECT 2 AS bound FROM {schema}.pq_workers w
    WHERE w.id = $1::bigint AND w.started_at = $9::timestamptz AND w.expires_at > clock_timestamp()
    FOR KEY SHARE SKIP LOCKED
), size AS MATERIALIZED (
    -- Some more than asked for: others may hold locks on the best. share: what one queue gives in the first round.
    SELECT s.pool, 1 + 2 * s.pool / greatest(cardinality($2::text[]), 2) AS share
    FROM (SELECT $5::integer + 20 AS pool) s
), searched AS MATERIALIZED (
    SELECT q.name, coalesce(-q.priority, -$4::integer) AS rank, coalesce(q.run_at, '-infinity') AS run_at,
        coalesce(q.id, -9223372036854775808) AS id
    FROM unnest($2::text[], $6::integer[], $7::timestamptz[], $8::bigint[]) q(name, priority, run_at, id)
    WHERE q.name <> ALL (ARRAY(SELECT p.name FROM {schema}.pq_queues p WHERE p.paused_at IS NOT NULL
            OR p.concurrency_limit IS NOT NULL OR p.rate_limit IS NOT NULL OR p.paused_until > clock_timestamp()))
), share AS MATERIALIZED (
    SELECT t.queue, t.rank, t.run_at, t.id, t.spot, t.place
    FROM searched s CROSS JOIN LATERAL (
        SELECT t.queue, -t.priority::integer AS rank, t.run_at, t.id, t.ctid AS spot, row_number() OVER () AS place
        FROM {schema}.pq_tasks t
        WHERE t.status = 'pending' AND t.due AND t.losses < 2
            AND (($10::jsonb ->> t.name)::integer <= t.version) IS NOT TRUE
            AND t.queue = s.name
            AND -t.priority::integer <= -$3::integer
            AND (-t.priority::integer, t.run_at, t.id) > (s.rank, s.run_at, s.id)
        ORDER BY -t.priority::integer, t.run_at, t.id
        LIMIT (SELECT size.share FROM size)
    ) t
), worst AS MATERIALIZED (
    (SELECT s.rank, s.run_at, s.id FROM share s
     ORDER BY s.rank, s.run_at, s.id
     OFFSET (SELECT size.pool - 1 FROM size) LIMIT 1)
    UNION ALL
    SELECT -$3::integer, 'infinity', 9223372036854775807
    LIMIT 1
), best AS MATERIALIZED (
    SELECT c.spot FROM (
        SELECT s.rank, s.run_at, s.id, s.spot FROM share s
        UNION ALL
        SELECT t.rank, t.run_at, t.id, t.spot
        FROM worst w CROSS JOIN share s CROSS JOIN LATERAL (
            -- Two reads, because an upper bound in form of a row does not end an index scan.
            (SELECT -t.priority::integer AS rank, t.run_at, t.id, t.ctid AS spot
             FROM {schema}.pq_tasks t
             WHERE t.status = 'pending' AND t.due AND t.losses < 2
                 AND (($10::jsonb ->> t.name)::integer <= t.version) IS NOT TRUE
                AND t.queue = s.queue
                AND -t.priority::integer < w.rank
                AND (-t.priority::integer, t.run_at, t.id) > (s.rank, s.run_at, s.id)
             ORDER BY -t.priority::integer, t.run_at, t.id
             LIMIT (SELECT size.pool FROM size))
            UNION ALL
            (SELECT -t.priority::integer, t.run_at, t.id, t.ctid
             FROM {schema}.pq_tasks t
             WHERE t.status = 'pending' AND t.due AND t.losses < 2
                 AND (($10::jsonb ->> t.name)::integer <= t.version) IS NOT TRUE
                AND t.queue = s.queue
                AND -t.priority::integer = w.rank
                AND t.run_at <= w.run_at
                AND (-t.priority::integer, t.run_at, t.id) > (s.rank, s.run_at, s.id)
             ORDER BY -t.priority::integer, t.run_at, t.id
             LIMIT (SELECT size.pool FROM size))
        ) t
        WHERE s.place = (SELECT size.share FROM size) AND (s.rank, s.run_at, s.id) < (w.rank, w.run_at, w.id)
    ) c
    ORDER BY c.rank, c.run_at, c.id
    LIMIT (SELECT size.pool FROM size)
), ready AS MATERIALIZED (
    -- The conditions again: a row that changed since it was read is checked as it is when locked. "IS NOT FALSE" keeps
    -- the planner off the ready index, which it would read from end to end here.
    SELECT t.ctid AS spot
    FROM {schema}.pq_tasks t
    WHERE t.ctid = ANY (ARRAY(SELECT b.spot FROM best b))
        AND t.status = 'pending' AND t.due IS NOT FALSE AND t.losses < (SELECT l.bound FROM lease l)
    ORDER BY -t.priority::integer, t.run_at, t.id
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
