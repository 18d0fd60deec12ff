-- Take back the tasks of workers whose lease has ended. Invariant: the lease is locked and removed first, so that its
-- worker can neither renew it nor claim under it any more; then its tasks change hands, once.
--
-- $1 bigint   the rescuer. It must have held its own lease without a gap for as long as the dead one's lasts, and so
--             must the server: after an outage nobody is given up for dead before he had time to come back. So had he
--             where somebody has seen, so long ago and since the server's start, that the lease had ended: each rescue
--             notes that (expired_seen_at), for rescuers that don't live for a lease.
-- $2 bigint[] workers known to be dead (their keeper saw them and all their children end): no waiting for these. $5
--             timestamptz[] when the lease of each began: its id may be another's by now
-- $3 boolean  leave on_failure out: one of them was found broken, and must not keep the others from being rescued
-- $4 bigint[] of $2 those that gave their lease up by themselves, with the database out of reach: nobody's fault
-- $6 bigint[] of $4 those that did so since the database had lost a part of its history
-- The second after the end of a lease belongs to the keeper of its worker, which kills one that did not notice.
-- Every row says, too, in how many seconds the next of the other leases ends (below 0: it has; NULL: there is no other).
-- Each lost task counts as started, also one that waited in its worker's inbox: nobody can tell any more.
-- A lost task comes back uncounted, or fails where on_lost says so, or where it has started `max_starts` times (options).
-- From the second loss on it runs alone; lost three times while alone, it fails as suspect of killing its workers.
WITH rescuer AS (
    SELECT w.id, least(clock_timestamp() - w.continuous_since, clock_timestamp() - pg_postmaster_start_time()) AS watched
    FROM {schema}.pq_workers w WHERE w.id = $1::bigint AND w.expires_at > clock_timestamp()
), dead AS MATERIALIZED (
    SELECT w.id, w.name FROM {schema}.pq_workers w
    WHERE w.id <> $1::bigint AND (
        EXISTS (SELECT FROM unnest($2::bigint[], $5::timestamptz[]) k(id, began) WHERE k.id = w.id AND k.began = w.started_at)
        OR (w.expires_at < clock_timestamp() - interval '1 second' AND EXISTS (SELECT FROM rescuer r
            WHERE r.watched > w.lease OR (w.expired_seen_at > greatest(w.expires_at, pg_postmaster_start_time())
                AND w.expired_seen_at < clock_timestamp() - w.lease))))
    FOR UPDATE SKIP LOCKED
), seen AS (
    -- By its owner's next renewal the mark is void: expires_at is later then.
    UPDATE {schema}.pq_workers w SET expired_seen_at = clock_timestamp()
    FROM (SELECT o.id FROM {schema}.pq_workers o
        WHERE o.expires_at < clock_timestamp() AND EXISTS (SELECT FROM rescuer)
            AND (o.expired_seen_at > greatest(o.expires_at, pg_postmaster_start_time())) IS NOT TRUE
            AND NOT EXISTS (SELECT FROM dead d WHERE d.id = o.id)
        FOR UPDATE SKIP LOCKED) s
    WHERE w.id = s.id
), removed AS (
    DELETE FROM {schema}.pq_workers w USING dead d WHERE w.id = d.id
), left_behind AS MATERIALIZED (
    SELECT t.id, t.fence, t.attempts, t.worker_id, t.started_at, t.losses, t.alone, t.name, t.queue, t.priority,
        t.max_attempts, t.payload, t.headers, t.version, t.run_at, t.created_at, t.client_id, t.max_runtime_seconds,
        t.options, t.snoozes, t.schedule_id, t.tick_at, t.on_lost,
        s.uncounted,
        CASE WHEN t.worker_id = ANY ($4::bigint[]) THEN 0 ELSE 1 END AS blame,
        CASE
            WHEN t.cancel_requested_at IS NOT NULL THEN 'cancelled'
            WHEN t.on_lost = 'fail' THEN 'failed'
            WHEN t.alone AND t.lone_losses >= 2 AND t.worker_id <> ALL ($4::bigint[]) THEN 'failed'
            WHEN s.starts >= s.most THEN 'failed'
            ELSE 'pending'
        END AS end_status,
        CASE
            WHEN s.starts >= s.most AND t.on_lost <> 'fail' AND t.cancel_requested_at IS NULL
                THEN format('lost: worker %s (%s) is gone; started %s times: max_starts allows no other start',
                    t.worker_id, coalesce(d.name, '?'), s.starts)
            WHEN t.worker_id = ANY ($6::bigint[]) THEN format('lost: worker %s (%s) ran this when the database lost a part of its history%s',
                t.worker_id, coalesce(d.name, '?'), CASE WHEN t.on_lost = 'fail' THEN ', and on_lost="fail" forbids to start this twice' ELSE '' END)
            WHEN t.worker_id = ANY ($4::bigint[]) THEN format('lost: worker %s (%s) could not reach the database before its lease ended%s',
                t.worker_id, coalesce(d.name, '?'), CASE WHEN t.on_lost = 'fail' THEN ', and on_lost="fail" forbids to start this twice' ELSE '' END)
            WHEN t.on_lost = 'fail' THEN format('lost: worker %s (%s) died while this ran, and on_lost="fail" forbids to start it twice', t.worker_id, coalesce(d.name, '?'))
            WHEN t.alone AND t.lone_losses >= 2 THEN format('lost: suspect of killing its workers: %s were lost while they ran nothing else', t.lone_losses + 1)
            ELSE format('lost: worker %s (%s) died while this ran', t.worker_id, coalesce(d.name, '?'))
        END AS error
    FROM {schema}.pq_tasks t LEFT JOIN dead d ON t.worker_id = d.id, LATERAL (SELECT coalesce(t.uncounted_starts, 0) + 1,
        greatest(t.attempts, 1) + coalesce(t.uncounted_starts, 0),
        CASE WHEN jsonb_typeof(t.options -> 'max_starts') = 'number'
            THEN nullif(cast(t.options ->> 'max_starts' AS numeric), 0) END) s(uncounted, starts, most)
    -- Or without any lease: a claim that was committed while its lease was being removed. A task that a worker claims
    -- this very moment has a new started_at, and is checked again when locked.
    WHERE t.status = 'running' AND (d.id IS NOT NULL OR (
        t.started_at < clock_timestamp() - interval '5 seconds'
        AND NOT EXISTS (SELECT FROM {schema}.pq_workers w WHERE w.id = t.worker_id)))
    FOR NO KEY UPDATE OF t SKIP LOCKED
), history AS (
    INSERT INTO {schema}.pq_attempts (task_id, fence, number, worker_id, outcome, started_at, error)
    SELECT l.id, l.fence, l.attempts, l.worker_id, 'lost', l.started_at, l.error FROM left_behind l
    ON CONFLICT (task_id, fence) DO NOTHING
), rescued AS (
    UPDATE {schema}.pq_tasks t
    SET status = l.end_status,
        outcome = 'lost',
        worker_id = CASE WHEN l.end_status <> 'pending' THEN l.worker_id END,
        attempts = greatest(t.attempts - 1, 0),
        losses = t.losses + l.blame,
        lone_losses = t.lone_losses + CASE WHEN t.alone THEN l.blame ELSE 0 END,
        uncounted_starts = l.uncounted,
        uncounted_in_a_row = coalesce(t.uncounted_in_a_row, 0) + 1,
        alone = false,
        due = true,
        run_at = CASE WHEN l.end_status = 'pending' THEN least(t.run_at, clock_timestamp()) ELSE t.run_at END,
        completed_at = CASE WHEN l.end_status = 'pending' THEN NULL ELSE clock_timestamp() END,
        error = l.error
    FROM left_behind l WHERE t.id = l.id
    RETURNING t.id, t.queue, t.status, t.uncounted_in_a_row, l.end_status, l.error, t.on_failure, t.notify_finished
), consequences AS MATERIALIZED (
    SELECT count(q.id) AS enqueued
    FROM rescued r CROSS JOIN LATERAL {schema}.pq_enqueue(r.on_failure || jsonb_build_object('headers',
        coalesce(nullif(r.on_failure -> 'headers', 'null'), '{{}}') || jsonb_build_object('pq-failed-task', r.id::text))) q
    WHERE r.end_status = 'failed' AND r.on_failure IS NOT NULL AND $3::boolean IS NOT TRUE
), waited_for AS (
    DELETE FROM {schema}.pq_waits w
    WHERE w.task_id = ANY (ARRAY(SELECT r.id FROM rescued r WHERE r.status IN ('completed', 'failed', 'cancelled')))
    RETURNING w.task_id AS id
), told AS MATERIALIZED (
    -- notify_finished: as clients of before revision 5 say that they wait.
    SELECT count(pg_notify({schema}.pq_channel('done'), e.id::text)) FROM (
        SELECT r.id FROM rescued r WHERE r.notify_finished AND r.status IN ('completed', 'failed', 'cancelled')
        UNION SELECT w.id FROM waited_for w) e
), woken AS MATERIALIZED (
    SELECT {schema}.pq_wake(array_agg(r.id), $1::bigint) AS count FROM rescued r WHERE r.status = 'pending' HAVING count(*) > 0
)
-- After six of its own: the task as it was claimed, columns as in claim_one_queue.sql.
SELECT (SELECT count(*) FROM dead) AS dead, r.status, r.error,
    (SELECT enqueued FROM consequences) + (SELECT count FROM told) + coalesce((SELECT count FROM woken), 0) AS told,
    (SELECT extract(epoch FROM min(o.expires_at) - clock_timestamp())::double precision FROM {schema}.pq_workers o
        WHERE o.id <> $1::bigint AND NOT EXISTS (SELECT FROM dead d WHERE d.id = o.id)) AS others,
    r.uncounted_in_a_row, l.id, l.name, l.queue, l.priority, l.fence, l.attempts AS number, l.max_attempts, l.payload::text AS payload,
    l.headers::text AS headers, l.version, l.run_at, l.created_at, l.started_at, l.client_id,
    l.max_runtime_seconds AS timeout, l.options::text AS options, l.losses, l.snoozes, l.schedule_id, l.tick_at,
    l.on_lost, NULL AS unroutable
FROM (SELECT 1) one LEFT JOIN (rescued r JOIN left_behind l USING (id)) ON true;
