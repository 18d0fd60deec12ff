-- Say which tasks this worker's code can't run: nobody wakes it for those, and none of them is unroutable because of it
-- alone.
--
-- $1 bigint worker  $2 jsonb name -> lowest version
UPDATE {schema}.pq_workers SET refuses = $2::jsonb WHERE id = $1::bigint;
