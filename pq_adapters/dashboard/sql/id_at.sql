-- The first id that was created at a time or later, found by halving: ids follow the time closely enough for a list.
WITH RECURSIVE input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), target AS (
    SELECT cast(p ->> 'at' AS timestamptz) AS at FROM input
), halves(low, high, n) AS (
    SELECT (SELECT min(t.id) FROM {schema}.pq_tasks t), (SELECT max(t.id) + 1 FROM {schema}.pq_tasks t), 0
    UNION ALL
    SELECT CASE WHEN m.created_at < g.at THEN m.id + 1 ELSE h.low END,
        CASE WHEN m.created_at < g.at THEN h.high ELSE (h.low + h.high) / 2 END, h.n + 1
    FROM halves h CROSS JOIN target g CROSS JOIN LATERAL (
        -- Ids have gaps: the first one that is there, from the middle on.
        SELECT t.id, t.created_at FROM {schema}.pq_tasks t WHERE t.id >= (h.low + h.high) / 2 ORDER BY t.id LIMIT 1) m
    WHERE h.low < h.high AND h.n < 64
)
SELECT cast(coalesce((SELECT low FROM halves ORDER BY n DESC LIMIT 1), 0) AS text)
