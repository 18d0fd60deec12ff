-- Claim tasks that have limits: see pq_claim_limited, whose invariant is that of claim_one_queue.sql and that no limit is
-- exceeded.
--
-- $1 bigint worker  $2 text[] queues  $3 integer[] lowest, $4 integer[] highest priority of each band
-- $5 integer how many at most  $6 boolean the worker runs nothing
SELECT c.* FROM {schema}.pq_claim_limited($1::bigint, $2::text[], $3::integer[], $4::integer[], $5::integer, $6::boolean) c;
