-- Set `due` on up to $1 tasks whose time has come, the earliest first, so that claims find them. Any worker does it;
-- two at once share the work. Returns how many, and the time of the earliest that is not due yet (NULL: none); it is in
-- the past when $1 was too small.
--
-- $1 integer  how many at most
WITH ripe AS MATERIALIZED (
    SELECT t.id, t.run_at
    FROM {schema}.pq_tasks t
    WHERE t.status = 'pending' AND NOT t.due AND t.run_at <= statement_timestamp()
    ORDER BY t.run_at
    LIMIT $1::integer
    FOR UPDATE OF t SKIP LOCKED
), promoted AS (
    UPDATE {schema}.pq_tasks t SET due = true
    WHERE t.id = ANY (ARRAY(SELECT r.id FROM ripe r))
    RETURNING t.queue
)
SELECT (SELECT count(*) FROM promoted) AS promoted,
    (SELECT t.run_at FROM {schema}.pq_tasks t
     WHERE t.status = 'pending' AND NOT t.due
        AND t.run_at > coalesce((SELECT max(r.run_at) FROM ripe r), '-infinity')
     ORDER BY t.run_at LIMIT 1) AS next_run_at;
