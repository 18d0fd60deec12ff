-- What the database believes this worker runs, and what of it is to be cancelled: the reason given, '' for none, NULL
-- where it goes on.
--
-- $1 bigint worker
SELECT t.id, t.fence, CASE WHEN t.cancel_requested_at IS NOT NULL THEN left(coalesce(t.cancel_reason, ''), 1000) END AS cancel
FROM {schema}.pq_tasks t WHERE t.status = 'running' AND t.worker_id = $1::bigint;
