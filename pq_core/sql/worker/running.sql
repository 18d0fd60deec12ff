-- What the database believes this worker runs, and what of it is to be cancelled.
--
-- $1 bigint worker
SELECT t.id, t.fence, t.cancel_requested_at IS NOT NULL AS cancel
FROM {schema}.pq_tasks t WHERE t.status = 'running' AND t.worker_id = $1::bigint;
