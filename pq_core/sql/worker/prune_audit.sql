-- Delete rows of the audit log that are older than $4 seconds, oldest first. Several rounds at once share the work.
--
-- $1 text chore  $2 bigint worker  $3 double precision seconds for which the chore is kept from others
-- $4 double precision seconds  $5 integer rows
-- Returns rows read and deleted, time and id of the last one read; no row when the chore is gone.
WITH mine AS MATERIALIZED (
    UPDATE {schema}.pq_chores c SET next_at = clock_timestamp() + $3::double precision * interval '1 second'
    WHERE c.name = $1::text AND c.worker_id = $2::bigint
    RETURNING 1
), doomed AS MATERIALIZED (
    SELECT a.id, a.at FROM {schema}.pq_audit a
    WHERE a.at < clock_timestamp() - $4::double precision * interval '1 second' AND EXISTS (SELECT FROM mine)
    ORDER BY a.at LIMIT $5::integer
    FOR UPDATE SKIP LOCKED
), deleted AS (
    DELETE FROM {schema}.pq_audit a WHERE a.id = ANY (ARRAY(SELECT d.id FROM doomed d)) RETURNING 1
)
SELECT (SELECT count(*) FROM doomed), (SELECT count(*) FROM deleted), (SELECT max(d.at) FROM doomed d),
    (SELECT max(d.id) FROM doomed d) FROM mine;
