-- Take a chore that is due, for its next round. Invariant: a row means that nobody else has this round. Who had the last
-- round may have the next one whenever it wants; others only when it has not been heard of for long.
--
-- $1 text chore  $2 double precision seconds until it is due again, should this worker die  $3 bigint worker
-- Never waits: a row that another worker takes in this moment is left to it.
WITH due AS MATERIALIZED (
    SELECT c.name FROM {schema}.pq_chores c WHERE c.name = $1::text AND (c.next_at <= clock_timestamp() OR c.worker_id = $3::bigint)
    FOR UPDATE SKIP LOCKED
), taken AS (
    UPDATE {schema}.pq_chores c
    SET next_at = clock_timestamp() + $2::double precision * interval '1 second', worker_id = $3::bigint
    FROM due WHERE c.name = due.name
    RETURNING 1
), made AS (
    INSERT INTO {schema}.pq_chores (name, next_at, worker_id)
    SELECT $1::text, clock_timestamp() + $2::double precision * interval '1 second', $3::bigint
    WHERE NOT EXISTS (SELECT FROM {schema}.pq_chores c WHERE c.name = $1::text)
    ON CONFLICT DO NOTHING
    RETURNING 1
)
SELECT 1 FROM taken UNION ALL SELECT 1 FROM made;
