-- Say whether this worker waits to be woken: pq_enqueue notifies only then.
--
-- $1 bigint worker  $2 boolean sleeping
UPDATE {schema}.pq_workers SET sleeping = $2::boolean WHERE id = $1::bigint AND sleeping <> $2::boolean;
