-- End a worker's life in good order: what it still held is put back uncounted, and its lease goes.
--
-- $1 bigint worker
WITH put_back AS (
    UPDATE {schema}.pq_tasks t
    SET status = CASE WHEN t.cancel_requested_at IS NULL THEN 'pending' ELSE 'cancelled' END, outcome = 'released',
        worker_id = NULL, attempts = greatest(t.attempts - 1, 0), due = true, alone = false,
        completed_at = CASE WHEN t.cancel_requested_at IS NULL THEN NULL ELSE clock_timestamp() END
    WHERE t.status = 'running' AND t.worker_id = $1::bigint
    RETURNING t.id
), gone AS (
    DELETE FROM {schema}.pq_workers WHERE id = $1::bigint
)
SELECT count(*) FROM put_back;
