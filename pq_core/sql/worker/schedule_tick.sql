-- Turn ticks into tasks and advance their schedules. Invariant: one transaction does both, on the row as it was when the
-- decision was made; a row that somebody has changed or holds locked is left out, for he decides about it. Should all
-- else fail, the unique index on (schedule_id, tick_at) keeps a tick from becoming two tasks.
--
-- $1 jsonb  the decisions: id, seen (next_run), updated (updated_at), ticks (oldest first), next_run (NULL: it has
--           ended), missed (ticks left out because nobody was there), wait (a tick that finds no place waits for one)
-- Returns per schedule that was advanced: id, tasks made, ticks that found no place, whether those wait for one.
WITH decided AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset($1::jsonb) AS d(
        id bigint, seen timestamptz, updated timestamptz, ticks timestamptz[], next_run timestamptz, missed bigint,
        wait boolean)
), locked AS MATERIALIZED (
    SELECT s AS schedule, s.id, s.max_concurrent, d.ticks, d.next_run, d.missed, d.wait
    FROM {schema}.pq_periodic s JOIN decided d ON d.id = s.id
    WHERE s.id = ANY (ARRAY(SELECT i.id FROM decided i)) AND s.active AND s.updated_at = d.updated
        AND s.next_run IS NOT DISTINCT FROM d.seen
    FOR NO KEY UPDATE OF s SKIP LOCKED
), placed AS MATERIALIZED (
    SELECT l.*, cardinality(l.ticks) AS wanted, least(cardinality(l.ticks), CASE WHEN l.max_concurrent IS NOT NULL THEN
        greatest(l.max_concurrent - (SELECT count(*) FROM {schema}.pq_tasks t
            WHERE t.schedule_id = l.id AND t.status IN ('pending', 'running', 'blocked')), 0)
        END)::integer AS places
    FROM locked l
), enqueued AS MATERIALIZED (
    SELECT count(*) AS tasks
    FROM (SELECT jsonb_agg({schema}.pq_schedule_task(to_jsonb(p.schedule), t.tick) ORDER BY t.tick, p.id) AS tasks
        FROM placed p, unnest(p.ticks[1:p.places]) t(tick)) w
    CROSS JOIN LATERAL {schema}.pq_enqueue(w.tasks) e
    WHERE w.tasks IS NOT NULL
), advanced AS (
    UPDATE {schema}.pq_periodic s
    SET next_run = CASE WHEN p.wait AND p.places < p.wanted THEN p.ticks[p.places + 1] ELSE p.next_run END,
        last_run = CASE WHEN p.places > 0 THEN clock_timestamp() ELSE s.last_run END,
        skipped = s.skipped + CASE WHEN p.wait THEN 0 ELSE p.wanted - p.places END,
        last_skipped_at = CASE WHEN p.wait OR p.places = p.wanted THEN s.last_skipped_at ELSE p.ticks[p.wanted] END,
        missed = s.missed + p.missed,
        active = p.next_run IS NOT NULL OR (p.wait AND p.places < p.wanted),
        ended_at = CASE WHEN p.next_run IS NULL AND NOT (p.wait AND p.places < p.wanted) THEN clock_timestamp() END,
        error = NULL
    FROM placed p
    WHERE s.id = p.id AND (SELECT e.tasks FROM enqueued e) >= 0
    RETURNING s.id, p.places, p.wanted - p.places AS unplaced, p.wait AND p.places < p.wanted AS waits
)
SELECT a.id, a.places, a.unplaced, a.waits FROM advanced a;
