-- Delete finished tasks that have been kept long enough, with the history of their attempts. Invariant: only a round
-- that still has its chore deletes; it reads at most $9 rows, those after the last ones it has read.
--
-- $1 text chore  $2 bigint worker  $3 double precision seconds for which the chore is kept from others
-- $4 text state  $5 text[] queues  $6 double precision seconds to keep where a queue says nothing (NULL: for ever)
-- $7 timestamptz, $8 bigint end and id of the last row read  $9 integer rows
-- Returns rows read and deleted, end and id of the last one read; no row when the chore is gone.
WITH mine AS MATERIALIZED (
    UPDATE {schema}.pq_chores c SET next_at = clock_timestamp() + $3::double precision * interval '1 second'
    WHERE c.name = $1::text AND c.worker_id = $2::bigint
    RETURNING 1
), said AS MATERIALIZED (
    SELECT u.name, coalesce(CASE WHEN $4::text = 'failed' THEN q.retention_failed ELSE q.retention END,
        $6::double precision * interval '1 second') AS keep
    FROM unnest($5::text[]) u(name) LEFT JOIN {schema}.pq_queues q ON q.name = u.name
), rules AS MATERIALIZED (
    -- Below zero: for ever.
    SELECT s.name, clock_timestamp() - s.keep AS before FROM said s WHERE s.keep >= interval '0'
), seen AS MATERIALIZED (
    SELECT t.id, t.completed_at, t.queue FROM {schema}.pq_tasks t
    WHERE t.status = $4::text AND t.status IN ('completed', 'failed', 'cancelled')
        AND (t.completed_at, t.id) > ($7::timestamptz, $8::bigint)
        AND t.completed_at < (SELECT max(r.before) FROM rules r) AND EXISTS (SELECT FROM mine)
    ORDER BY t.completed_at, t.id
    LIMIT $9::integer
), doomed AS MATERIALIZED (
    SELECT t.id FROM {schema}.pq_tasks t JOIN seen s ON s.id = t.id JOIN rules r ON r.name = s.queue
    WHERE s.completed_at < r.before AND t.status = $4::text AND t.completed_at = s.completed_at AND t.queue = s.queue
    FOR UPDATE OF t SKIP LOCKED
), deleted AS (
    DELETE FROM {schema}.pq_tasks t WHERE t.id = ANY (ARRAY(SELECT d.id FROM doomed d)) RETURNING t.id
), history AS (
    DELETE FROM {schema}.pq_attempts a WHERE a.task_id IN (SELECT d.id FROM deleted d)
)
SELECT (SELECT count(*) FROM seen), (SELECT count(*) FROM deleted), l.completed_at, l.id
FROM mine LEFT JOIN LATERAL (SELECT s.completed_at, s.id FROM seen s ORDER BY s.completed_at DESC, s.id DESC LIMIT 1) l
    ON true;
