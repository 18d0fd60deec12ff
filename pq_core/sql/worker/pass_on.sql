-- Say that this worker takes nothing for now, and wake others for what it leaves: whoever woke it has told nobody else.
-- Invariant: it is no longer marked as asleep before it looks what is left; who enqueues after that chooses another.
--
-- $1 bigint worker  $2 text[] queues  $3 integer[] lowest, $4 integer[] highest priority of each band
WITH awake AS (
    UPDATE {schema}.pq_workers SET sleeping = false WHERE id = $1::bigint AND sleeping
)
SELECT CASE WHEN EXISTS (SELECT FROM {schema}.pq_workers w
        WHERE w.sleeping AND w.id <> $1::bigint AND w.expires_at > clock_timestamp())
    THEN {schema}.pq_wake(ARRAY(
        SELECT c.id FROM unnest($2::text[]) q(name), unnest($3::integer[], $4::integer[]) b(low, high), LATERAL (
            SELECT t.id FROM {schema}.pq_tasks t
            WHERE t.status = 'pending' AND t.due AND t.losses < 2 AND t.queue = q.name
                AND -t.priority::integer BETWEEN -b.high AND -b.low
            ORDER BY -t.priority::integer, t.run_at, t.id
            LIMIT 20) c
        UNION ALL
        (SELECT t.id FROM {schema}.pq_tasks t
        WHERE t.status = 'blocked' AND t.lane IS NOT NULL AND t.queue = ANY ($2::text[])
        LIMIT 1)
        UNION ALL
        -- Of what is due soon one sleeper alone was told, and this was it: the others may not look before (STRETCHED in
        -- attention.py).
        (SELECT t.id FROM {schema}.pq_tasks t
        WHERE t.status = 'pending' AND NOT t.due AND t.run_at < clock_timestamp() + interval '5 seconds'
            AND t.queue = ANY ($2::text[])
        ORDER BY t.run_at LIMIT 1)), $1::bigint)
    END AS told;
