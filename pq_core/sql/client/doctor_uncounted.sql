-- Tasks that start and start without an end that counts, of the `cap` unfinished ones looked at: five starts in a row and
-- more. One row per name.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), unfinished AS (
    SELECT t.id, t.name, t.uncounted_in_a_row FROM {schema}.pq_tasks t
    WHERE t.status IN ('pending', 'running', 'blocked') LIMIT (SELECT cast(p ->> 'cap' AS bigint) FROM input)
)
SELECT cast(json_build_object('name', u.name, 'count', count(*), 'most', max(u.uncounted_in_a_row), 'id', min(u.id)) AS text)
FROM unfinished u WHERE u.uncounted_in_a_row >= 5 GROUP BY u.name ORDER BY u.name
