-- Name the best $4 ready tasks across many queues, in order, without locking any: candidates for claim_candidates.sql.
--
-- $1 text[]         the queues
-- $2 integer        lowest priority
-- $3 integer        highest priority
-- $4 integer        how many
-- $5 integer[]      priority, $6 timestamptz[] run_at, $7 bigint[] id of the task after which the search begins in each
--                   queue, as in claim_many_queues.sql, which says how it works
WITH size AS MATERIALIZED (
    SELECT s.pool, 1 + 2 * s.pool / greatest(cardinality($1::text[]), 2) AS share
    FROM (SELECT $4::integer AS pool) s
), searched AS MATERIALIZED (
    SELECT q.name, coalesce(-q.priority, -$3::integer) AS rank, coalesce(q.run_at, '-infinity') AS run_at,
        coalesce(q.id, -9223372036854775808) AS id
    FROM unnest($1::text[], $5::integer[], $6::timestamptz[], $7::bigint[]) q(name, priority, run_at, id)
    WHERE q.name <> ALL (ARRAY(SELECT p.name FROM {schema}.pq_queues p WHERE p.paused_at IS NOT NULL
            OR p.concurrency_limit IS NOT NULL OR p.rate_limit IS NOT NULL OR p.paused_until > clock_timestamp()))
), share AS MATERIALIZED (
    SELECT t.queue, t.rank, t.run_at, t.id, t.place
    FROM searched s CROSS JOIN LATERAL (
        SELECT t.queue, -t.priority::integer AS rank, t.run_at, t.id, row_number() OVER () AS place
        FROM {schema}.pq_tasks t
        WHERE t.status = 'pending' AND t.due AND t.losses < 2
            AND t.queue = s.name
            AND -t.priority::integer <= -$2::integer
            AND (-t.priority::integer, t.run_at, t.id) > (s.rank, s.run_at, s.id)
        ORDER BY -t.priority::integer, t.run_at, t.id
        LIMIT (SELECT size.share FROM size)
    ) t
), worst AS MATERIALIZED (
    (SELECT s.rank, s.run_at, s.id FROM share s
     ORDER BY s.rank, s.run_at, s.id
     OFFSET (SELECT size.pool - 1 FROM size) LIMIT 1)
    UNION ALL
    SELECT -$2::integer, 'infinity', 9223372036854775807
    LIMIT 1
)
SELECT c.id FROM (
    SELECT s.rank, s.run_at, s.id FROM share s
    UNION ALL
    SELECT t.rank, t.run_at, t.id
    FROM worst w CROSS JOIN share s CROSS JOIN LATERAL (
        -- Two reads, because an upper bound in form of a row does not end an index scan.
        (SELECT -t.priority::integer AS rank, t.run_at, t.id
         FROM {schema}.pq_tasks t
         WHERE t.status = 'pending' AND t.due AND t.losses < 2
            AND t.queue = s.queue
            AND -t.priority::integer < w.rank
            AND (-t.priority::integer, t.run_at, t.id) > (s.rank, s.run_at, s.id)
         ORDER BY -t.priority::integer, t.run_at, t.id
         LIMIT (SELECT size.pool FROM size))
        UNION ALL
        (SELECT -t.priority::integer, t.run_at, t.id
         FROM {schema}.pq_tasks t
         WHERE t.status = 'pending' AND t.due AND t.losses < 2
            AND t.queue = s.queue
            AND -t.priority::integer = w.rank
            AND t.run_at <= w.run_at
            AND (-t.priority::integer, t.run_at, t.id) > (s.rank, s.run_at, s.id)
         ORDER BY -t.priority::integer, t.run_at, t.id
         LIMIT (SELECT size.pool FROM size))
    ) t
    WHERE s.place = (SELECT size.share FROM size) AND (s.rank, s.run_at, s.id) < (w.rank, w.run_at, w.id)
) c
ORDER BY c.rank, c.run_at, c.id
LIMIT (SELECT size.pool FROM size);
