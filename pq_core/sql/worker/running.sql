-- What the database believes this worker runs, by the keys of its claims; what of it is to be cancelled: the reason given,
-- '' for none, NULL where it goes on; and what becomes of it when it is lost.
--
-- $1 bigint worker
SELECT t.id, t.fence, t.started_at, CASE WHEN t.cancel_requested_at IS NOT NULL THEN left(coalesce(t.cancel_reason, ''), 1000) END AS cancel, t.on_lost
FROM {schema}.pq_tasks t WHERE t.status = 'running' AND t.worker_id = $1::bigint;
