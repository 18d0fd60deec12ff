-- Delete recorded attempts of tasks that are gone, as after somebody's own DELETE, when they are older than $4 seconds;
-- and what waiters noted while their task ended, and died before they asked again.
--
-- $1 text chore  $2 bigint worker  $3 double precision seconds for which the chore is kept from others
-- $4 double precision seconds  $5 bigint id of the last row read  $6 integer rows
-- Returns rows read and deleted, id of the last one read; no row when the chore is gone.
WITH mine AS MATERIALIZED (
    UPDATE {schema}.pq_chores c SET next_at = clock_timestamp() + $3::double precision * interval '1 second'
    WHERE c.name = $1::text AND c.worker_id = $2::bigint
    RETURNING 1
), seen AS MATERIALIZED (
    SELECT a.id, a.task_id, a.finished_at FROM {schema}.pq_attempts a
    WHERE a.id > $5::bigint AND EXISTS (SELECT FROM mine) ORDER BY a.id LIMIT $6::integer
), deleted AS (
    DELETE FROM {schema}.pq_attempts a WHERE a.id IN (
        SELECT s.id FROM seen s
        WHERE s.finished_at < clock_timestamp() - $4::double precision * interval '1 second'
            AND NOT EXISTS (SELECT FROM {schema}.pq_tasks t WHERE t.id = s.task_id))
    RETURNING 1
), over AS (
    DELETE FROM {schema}.pq_waits w WHERE EXISTS (SELECT FROM mine) AND w.ctid = ANY (ARRAY(
        SELECT o.ctid FROM {schema}.pq_waits o
        WHERE NOT EXISTS (SELECT FROM {schema}.pq_tasks t
            WHERE t.id = o.task_id AND t.status IN ('pending', 'running', 'blocked'))
        LIMIT $6::integer FOR UPDATE OF o SKIP LOCKED))
)
SELECT (SELECT count(*) FROM seen), (SELECT count(*) FROM deleted), (SELECT max(s.id) FROM seen s) FROM mine;
