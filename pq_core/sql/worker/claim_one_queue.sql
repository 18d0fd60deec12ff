-- Claim up to $5 ready tasks of one queue, best first. Invariant: only under the worker's own live lease, never out of a
-- paused queue, and a task is taken by one worker only (the row lock decides; who comes second skips it).
--
-- $1 bigint         worker
-- $2 text[]         the queue (one element)
-- $3 integer        lowest priority it takes
-- $4 integer        highest priority it takes
-- $5 integer        how many at most
-- $6 integer[]      priority, $7 timestamptz[] run_at, $8 bigint[] id of the task after which the search begins
--                   (one element each, '{{}}' for a search from the start). Dead index entries before it are not read.
--                   What came in before that point is found by the next search from the start.
-- $9 timestamptz    when the worker's lease began, which with its id is the lease's key
-- $10 jsonb         what its code can't run: name -> lowest version (NULL: nothing)
WITH lease AS MATERIALIZED (
    -- A rescuer that removes this lease waits for us or we for nobody: KEY SHARE lets the heartbeat pass. Read, and so
    -- locked, where `ready` meets its first row, before it locks that: a lock is written to the WAL and makes the
    -- transaction one that has to be flushed, and most claims of an idle worker find nothing.
    SELECT 2 AS bound FROM {schema}.pq_workers w
    WHERE w.id = $1::bigint AND w.started_at = $9::timestamptz AND w.expires_at > clock_timestamp()
    FOR KEY SHARE SKIP LOCKED
), ready AS MATERIALIZED (
    SELECT t.ctid AS spot
    FROM {schema}.pq_tasks t
    WHERE t.status = 'pending' AND t.due AND t.losses < 2
        AND t.queue = ($2::text[])[1]
        AND -t.priority::integer <= -$3::integer
        AND (-t.priority::integer, t.run_at, t.id) > (
            coalesce(-($6::integer[])[1], -$4::integer),
            coalesce(($7::timestamptz[])[1], '-infinity'),
            coalesce(($8::bigint[])[1], -9223372036854775808))
        AND (($10::jsonb ->> t.name)::integer <= t.version) IS NOT TRUE
        AND t.losses < (SELECT l.bound FROM lease l)
        AND NOT EXISTS (SELECT FROM {schema}.pq_queues q WHERE q.name = ($2::text[])[1] AND (q.paused_at IS NOT NULL
            OR q.concurrency_limit IS NOT NULL OR q.rate_limit IS NOT NULL OR q.paused_until > clock_timestamp()))
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
    -- By the place of the row: found without any index, and estimated at ten rows whatever the statistics say. It holds,
    -- for nothing is vacuumed away that this statement can see.
    WHERE t.ctid = ANY (ARRAY(SELECT r.spot FROM ready r))
    RETURNING t.id, t.name, t.queue, t.priority, t.fence, t.attempts AS number, t.max_attempts,
        t.payload::text AS payload, t.headers::text AS headers, t.version, t.run_at, t.created_at, t.started_at,
        t.client_id, t.max_runtime_seconds AS timeout, t.options::text AS options, t.losses, t.snoozes, t.schedule_id,
        t.tick_at, t.on_lost, extract(epoch FROM clock_timestamp() - t.unroutable_since)::double precision AS unroutable
)
SELECT * FROM claimed;
