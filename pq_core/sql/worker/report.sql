-- Record how attempts ended. Invariant: only the attempt that owns a task changes it: id, running, worker, fence and the
-- time of the claim must all match. The time is the claim's nonce: when the database goes back to an earlier time, or on
-- from a standby that had not everything, the other three come again for another task. One report
-- may hold the ends of two attempts at one task. Rows that somebody has locked (the backend of a killed child may still be
-- ending) are passed over and come back as 'later', to be reported again; waiting for one would hold up all.
--
-- $1 bigint  worker
-- $2 jsonb   the ends: id, fence, started_at, status, outcome, counted, delay (seconds), error, fingerprint, result,
--            ledger, output, itself (true: it says that it completed itself), progress, progress_message, unroutable
--            (true: this code can't run it), plain (true: leave on_failure out, it was found broken), begun (true: it
--            does not count, but had begun), unstarted (true: it was claimed and never begun; it is no attempt)
-- Returns per end: id, fence, the task's status now (NULL: there is no such row), what became of the report
-- ('recorded', 'later', 'self' for one that had completed itself or was recorded before, 'uncommitted' for one that says
-- that it completed itself while the row still runs, 'lost' for one that is another's now), of what was not recorded the
-- outcome that is on record, seconds until it runs again, what on_failure enqueued, started_at, who was told, how many starts
-- in a row did not count. One that has started `max_starts` times (options) fails where it would start again.
-- One that is reported as unroutable for too long comes back, and its time begins anew, while a live worker that may run it
-- has not refused it.
WITH ending AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset($2::jsonb) AS e(
        id bigint, fence bigint, started_at timestamptz, status text, outcome text, counted boolean,
        delay double precision, error text, fingerprint text, result jsonb, ledger jsonb, output text, itself boolean,
        progress real, progress_message text, unroutable boolean, plain boolean, begun boolean, unstarted boolean)
), owned AS MATERIALIZED (
    SELECT t.id, e.fence, t.attempts, e.started_at, t.parked IS NOT NULL AS parked, t.cancel_requested_at,
        coalesce(t.uncounted_starts, 0) + CASE WHEN e.begun THEN 1 ELSE 0 END AS uncounted_starts,
        CASE
            WHEN e.begun THEN coalesce(t.uncounted_in_a_row, 0) + 1
            WHEN NOT e.counted AND e.outcome <> 'snoozed' THEN coalesce(t.uncounted_in_a_row, 0)
            ELSE 0
        END AS uncounted_in_a_row,
        CASE WHEN e.status = 'pending' AND jsonb_typeof(t.options -> 'max_starts') = 'number'
            THEN nullif(cast(t.options ->> 'max_starts' AS numeric), 0) END AS max_starts,
        e.unroutable IS TRUE AND e.status = 'failed' AND t.cancel_requested_at IS NULL AND EXISTS (
            SELECT FROM {schema}.pq_workers w
            WHERE w.id <> $1::bigint AND w.expires_at > clock_timestamp() AND NOT w.draining AND NOT w.drain_requested
                AND t.queue = ANY (w.queues) AND (w.bands IS NULL OR w.bands @> t.priority::integer)
                AND ((w.refuses ->> t.name)::integer <= t.version) IS NOT TRUE) AS hoped
    FROM {schema}.pq_tasks t JOIN ending e ON t.id = e.id
    -- By the ids alone: the index of running rows fills with dead entries while somebody holds a snapshot (a report of
    -- 100 went from 10 to 26 ms), so the state is asked in a form that this index can't answer.
    WHERE t.id = ANY (ARRAY(SELECT k.id FROM ending k)) AND (t.status = 'running') IS NOT FALSE
        AND t.worker_id = $1::bigint AND t.fence = e.fence AND t.started_at = e.started_at
    FOR NO KEY UPDATE OF t SKIP LOCKED
), recorded AS (
    UPDATE {schema}.pq_tasks t
    SET status = e.end_status,
        outcome = CASE WHEN e.unstarted AND e.end_status = 'pending' THEN NULL ELSE e.outcome END,
        -- Who ended it stays on record; run_inline, which is no worker, is nobody.
        worker_id = CASE WHEN e.end_status <> 'pending' THEN nullif($1::bigint, 0) END,
        attempts = CASE WHEN e.counted THEN t.attempts ELSE greatest(t.attempts - 1, 0) END,
        uncounted_starts = nullif(e.uncounted_starts, 0),
        uncounted_in_a_row = nullif(e.uncounted_in_a_row, 0),
        snoozes = t.snoozes + CASE WHEN e.outcome = 'snoozed' THEN 1 ELSE 0 END,
        run_at = CASE WHEN e.end_status = 'pending' THEN e.at ELSE t.run_at END,
        due = e.end_status <> 'pending' OR coalesce(e.delay, 0) <= 0,
        completed_at = CASE WHEN e.end_status = 'pending' THEN NULL ELSE e.moment END,
        error = CASE WHEN e.hoped OR e.unstarted AND e.end_status = 'pending' THEN t.error WHEN e.end_status = 'failed' AND e.status = 'pending'
            THEN concat_ws(E'\n', e.error, format('started %s times: max_starts allows no other start', e.starts))
            ELSE coalesce(e.error, CASE WHEN e.end_status IN ('failed', 'pending') THEN t.error END) END,
        error_fingerprint = e.fingerprint,
        unroutable_since = CASE WHEN e.hoped THEN e.moment WHEN e.unroutable THEN coalesce(t.unroutable_since, e.moment) END,
        result = e.result,
        ledger = e.ledger,
        output = e.output,
        progress = coalesce(e.progress, t.progress),
        progress_message = coalesce(e.progress_message, t.progress_message)
    FROM (
        SELECT e.*, clock_timestamp() AS moment, clock_timestamp() + coalesce(e.delay, 0) * interval '1 second' AS at,
            -- Asked to be cancelled while it ran: it does not come back.
            CASE
                WHEN e.status = 'pending' AND o.cancel_requested_at IS NOT NULL THEN 'cancelled'
                WHEN s.starts >= o.max_starts THEN 'failed'
                WHEN o.hoped THEN 'pending'
                ELSE e.status
            END AS end_status, s.starts, o.uncounted_starts, o.uncounted_in_a_row, o.hoped
        FROM ending e JOIN owned o USING (id, fence, started_at), LATERAL (SELECT
            CASE WHEN e.counted THEN o.attempts ELSE greatest(o.attempts - 1, 0) END + o.uncounted_starts) s(starts)
        WHERE e.itself IS NOT TRUE
    ) e
    WHERE t.id = e.id
    RETURNING t.id, e.fence, e.started_at, t.status, t.queue, t.due, t.outcome, t.notify_finished, e.plain, e.unstarted, t.on_failure, e.end_status,
        t.uncounted_in_a_row,
        CASE WHEN t.status = 'pending' AND isfinite(t.run_at) THEN extract(epoch FROM t.run_at - e.moment)::double precision END AS retry_in
), history AS (
    INSERT INTO {schema}.pq_attempts (task_id, fence, number, worker_id, outcome, started_at, error, fingerprint, ledger, output)
    SELECT e.id, e.fence, o.attempts, $1::bigint, e.outcome, o.started_at, e.error, e.fingerprint, e.ledger, e.output
    FROM ending e JOIN owned o USING (id, fence, started_at)
    WHERE e.itself IS NOT TRUE AND e.unstarted IS NOT TRUE AND (e.outcome <> 'succeeded' OR e.fence > 1 OR o.parked)
    ON CONFLICT (task_id, fence) DO NOTHING
), forgotten AS (
    -- A task that snoozes for ever keeps its last fifty attempts.
    DELETE FROM {schema}.pq_attempts a USING ending e JOIN owned o USING (id, fence, started_at)
    WHERE e.fence > 50 AND a.task_id = e.id AND a.fence <= e.fence - 50
), consequences AS MATERIALIZED (
    SELECT count(q.id) AS enqueued
    FROM recorded r CROSS JOIN LATERAL {schema}.pq_enqueue(r.on_failure || jsonb_build_object('headers',
        coalesce(nullif(r.on_failure -> 'headers', 'null'), '{{}}') || jsonb_build_object('pq-failed-task', r.id::text))) q
    WHERE r.end_status = 'failed' AND r.on_failure IS NOT NULL AND r.plain IS NOT TRUE
), waited_for AS (
    DELETE FROM {schema}.pq_waits w
    WHERE w.task_id = ANY (ARRAY(SELECT r.id FROM recorded r WHERE r.status IN ('completed', 'failed', 'cancelled')))
    RETURNING w.task_id AS id
), told AS MATERIALIZED (
    -- notify_finished: as clients of before revision 5 say that they wait.
    SELECT count(pg_notify({schema}.pq_channel('done'), e.id::text)) FROM (
        SELECT r.id FROM recorded r WHERE r.notify_finished AND r.status IN ('completed', 'failed', 'cancelled')
        UNION SELECT w.id FROM waited_for w) e
), woken AS MATERIALIZED (
    -- What this worker gives up others may have now: as pq_enqueue, tell those who sleep. So too of what is due again
    -- before a quiet worker looks (5 s, STRETCHED in attention.py): this one may be full by then, or gone.
    SELECT {schema}.pq_wake(array_agg(r.id), $1::bigint) AS count FROM recorded r
    WHERE r.status = 'pending' AND (r.retry_in < 5 OR r.due AND (r.unstarted OR r.outcome IN ('interrupted', 'released')))
    HAVING count(*) > 0
)
SELECT e.id, e.fence, coalesce(r.status, t.status) AS status,
    CASE
        WHEN r.id IS NOT NULL THEN 'recorded'
        WHEN e.itself AND EXISTS (SELECT FROM owned o WHERE o.id = e.id AND o.fence = e.fence AND o.started_at = e.started_at)
            THEN 'uncommitted'
        WHEN t.status = 'running' AND t.worker_id = $1::bigint AND t.fence = e.fence AND t.started_at = e.started_at THEN 'later'
        WHEN t.status = 'completed' AND t.fence = e.fence AND t.started_at = e.started_at THEN 'self'
        WHEN a.outcome <> 'lost' AND a.worker_id = $1::bigint OR e.unstarted AND t.fence = e.fence THEN 'self'
        ELSE 'lost'
    END AS report,
    coalesce(a.outcome, t.outcome) AS outcome, r.retry_in, (SELECT enqueued FROM consequences) AS consequences,
    e.started_at, (SELECT count FROM told) + coalesce((SELECT count FROM woken), 0) AS told,
    r.uncounted_in_a_row
FROM ending e LEFT JOIN recorded r USING (id, fence, started_at)
    -- Looked up for what was not recorded only: OFFSET keeps the condition on r before the search of the index.
    LEFT JOIN LATERAL (SELECT x.status, x.worker_id, x.fence, x.started_at, x.outcome FROM {schema}.pq_tasks x
        WHERE r.id IS NULL AND x.id = e.id OFFSET 0) t ON true
    LEFT JOIN LATERAL (SELECT x.worker_id, x.outcome FROM {schema}.pq_attempts x
        WHERE r.id IS NULL AND x.task_id = e.id AND x.fence = e.fence AND x.started_at = e.started_at OFFSET 0) a ON true;
