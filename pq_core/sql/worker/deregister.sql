-- End a worker's life in good order: what it still held is put back uncounted, sleeping workers are told, and so is who
-- waits for one that ends with it; its lease goes. What must not start twice and has begun under this lease fails: the
-- database has lost how it ended, or did not take it.
--
-- $1 bigint worker  $2 timestamptz when its lease began  $3 jsonb claims that have begun: id, fence, started_at
-- $4 timestamptz  up to when it can't be told of a claim whether it has
WITH lease AS MATERIALIZED (
    SELECT w.id FROM {schema}.pq_workers w WHERE w.id = $1::bigint AND w.started_at = $2::timestamptz FOR UPDATE
), held AS MATERIALIZED (
    SELECT t.id, t.fence, t.attempts, t.worker_id, t.started_at, CASE
            WHEN t.cancel_requested_at IS NOT NULL THEN 'cancelled'
            WHEN t.on_lost = 'fail' AND (t.started_at <= $4::timestamptz OR EXISTS (
                SELECT FROM jsonb_to_recordset($3::jsonb) AS b(id bigint, fence bigint, started_at timestamptz)
                WHERE b.id = t.id AND b.fence = t.fence AND b.started_at = t.started_at)) THEN 'failed'
            ELSE 'pending'
        END AS end_status,
        'lost: this was begun, and how it ended is not recorded; on_lost="fail" forbids to start this twice' AS words
    FROM {schema}.pq_tasks t
    WHERE t.status = 'running' AND t.worker_id = (SELECT l.id FROM lease l)
    FOR NO KEY UPDATE
), put_back AS (
    UPDATE {schema}.pq_tasks t
    SET status = h.end_status, outcome = CASE WHEN h.end_status = 'failed' THEN 'lost' ELSE 'released' END,
        worker_id = CASE WHEN h.end_status <> 'pending' THEN t.worker_id END,
        attempts = greatest(t.attempts - 1, 0), due = true, alone = false,
        completed_at = CASE WHEN h.end_status <> 'pending' THEN clock_timestamp() END,
        error = CASE WHEN h.end_status = 'failed' THEN h.words ELSE t.error END
    FROM held h WHERE t.id = h.id
    RETURNING t.id, t.status, t.on_failure, t.notify_finished, h.end_status
), history AS (
    INSERT INTO {schema}.pq_attempts (task_id, fence, number, worker_id, outcome, started_at, error)
    SELECT h.id, h.fence, h.attempts, h.worker_id, 'lost', h.started_at, h.words FROM held h WHERE h.end_status = 'failed'
    ON CONFLICT (task_id, fence) DO NOTHING
), consequences AS MATERIALIZED (
    SELECT count(q.id) AS enqueued
    FROM put_back p CROSS JOIN LATERAL {schema}.pq_enqueue(p.on_failure || jsonb_build_object('headers',
        coalesce(nullif(p.on_failure -> 'headers', 'null'), '{{}}') || jsonb_build_object('pq-failed-task', p.id::text))) q
    WHERE p.end_status = 'failed' AND p.on_failure IS NOT NULL
), waited_for AS (
    DELETE FROM {schema}.pq_waits w
    WHERE w.task_id = ANY (ARRAY(SELECT p.id FROM put_back p WHERE p.status IN ('failed', 'cancelled')))
    RETURNING w.task_id AS id
), told AS MATERIALIZED (
    -- notify_finished: as clients of before revision 5 say that they wait.
    SELECT count(pg_notify({schema}.pq_channel('done'), e.id::text)) FROM (
        SELECT p.id FROM put_back p WHERE p.notify_finished AND p.status IN ('failed', 'cancelled')
        UNION SELECT w.id FROM waited_for w) e
), woken AS MATERIALIZED (
    SELECT {schema}.pq_wake(ARRAY(SELECT p.id FROM put_back p WHERE p.status = 'pending'), $1::bigint) AS count
), gone AS (
    DELETE FROM {schema}.pq_workers WHERE id = (SELECT l.id FROM lease l)
)
SELECT count(*), (SELECT count FROM woken) + (SELECT enqueued FROM consequences) + (SELECT count FROM told) AS told
FROM put_back;
