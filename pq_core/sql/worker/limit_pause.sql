-- Pause the keys and queues of tasks that were told to come back later. Sent with the report of their ends, so that both
-- are recorded or none. Sent twice it only lasts a little longer; an earlier end never shortens a pause.
--
-- $1 jsonb  the pauses: subject (key:KEY or queue:NAME), seconds
WITH told AS MATERIALIZED (
    SELECT p.subject, clock_timestamp() + max(p.seconds) * interval '1 second' AS until
    FROM jsonb_to_recordset($1::jsonb) AS p(subject text, seconds double precision)
    GROUP BY p.subject
), over AS (
    DELETE FROM {schema}.pq_limits l WHERE l.subject = ANY (ARRAY(
        SELECT o.subject FROM {schema}.pq_limits o
        WHERE greatest(o.next_at, o.paused_until) < clock_timestamp() - interval '1 day'
            AND o.subject <> ALL (ARRAY(SELECT t.subject FROM told t))
        LIMIT 100 FOR UPDATE SKIP LOCKED))
), keys AS (
    INSERT INTO {schema}.pq_limits AS l (subject, paused_until)
    SELECT t.subject, t.until FROM told t WHERE t.subject LIKE 'key:%' ORDER BY t.subject
    ON CONFLICT (subject) DO UPDATE SET paused_until = greatest(l.paused_until, EXCLUDED.paused_until)
)
INSERT INTO {schema}.pq_queues AS q (name, paused_until)
SELECT substr(t.subject, 7), t.until FROM told t WHERE t.subject LIKE 'queue:%' ORDER BY t.subject
ON CONFLICT (name) DO UPDATE SET paused_until = greatest(q.paused_until, EXCLUDED.paused_until);
