-- Begin a worker's life: a lease under a new id. With the time of its beginning that is the key of the lease.
--
-- $1 lease seconds  $2 pid  $3 concurrency  $4 name  $5 host  $6 app  $7 pq version  $8 queues  $9 info (jsonb)
-- $10 the channel on which it alone is woken  $11 the priorities that it takes
INSERT INTO {schema}.pq_workers (expires_at, lease, pid, concurrency, name, host, app, pq_version, queues, info, wake_channel,
    bands)
VALUES (clock_timestamp() + $1::double precision * interval '1 second', $1::double precision * interval '1 second',
    $2::integer, $3::integer, $4::text, $5::text, $6::text, $7::text, $8::text[], $9::jsonb, $10::text,
    $11::int4multirange)
RETURNING id, started_at, (SELECT revision FROM {schema}.pq_schema), (SELECT oldest_code FROM {schema}.pq_schema);
