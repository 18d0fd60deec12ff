-- End a worker's life in good order: what it still held is put back uncounted, sleeping workers are told, and its lease
-- goes.
--
-- $1 bigint worker  $2 timestamptz when its lease began
WITH lease AS MATERIALIZED (
    SELECT w.id FROM {schema}.pq_workers w WHERE w.id = $1::bigint AND w.started_at = $2::timestamptz FOR UPDATE
), put_back AS (
    UPDATE {schema}.pq_tasks t
    SET status = CASE WHEN t.cancel_requested_at IS NULL THEN 'pending' ELSE 'cancelled' END, outcome = 'released',
        worker_id = CASE WHEN t.cancel_requested_at IS NOT NULL THEN t.worker_id END,
        attempts = greatest(t.attempts - 1, 0), due = true, alone = false,
        completed_at = CASE WHEN t.cancel_requested_at IS NULL THEN NULL ELSE clock_timestamp() END
    WHERE t.status = 'running' AND t.worker_id = (SELECT l.id FROM lease l)
    RETURNING t.id, t.status
), woken AS MATERIALIZED (
    SELECT {schema}.pq_wake(ARRAY(SELECT p.id FROM put_back p WHERE p.status = 'pending'), $1::bigint) AS count
), gone AS (
    DELETE FROM {schema}.pq_workers WHERE id = (SELECT l.id FROM lease l)
)
SELECT count(*), (SELECT count FROM woken) AS told FROM put_back;
