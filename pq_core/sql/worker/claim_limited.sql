-- Claim tasks that have limits: see pq_claim_limited, whose invariant is that of claim_one_queue.sql and that no limit is
-- exceeded.
--
-- $1 bigint worker  $2 text[] queues  $3 integer[] lowest, $4 integer[] highest priority of each band
-- $5 integer how many at most  $6 boolean the worker runs nothing  $7 timestamptz when the worker's lease began
SELECT c.* FROM {schema}.pq_workers w
    CROSS JOIN LATERAL {schema}.pq_claim_limited(w.id, $2::text[], $3::integer[], $4::integer[], $5::integer, $6::boolean) c
WHERE w.id = $1::bigint AND w.started_at = $7::timestamptz;
