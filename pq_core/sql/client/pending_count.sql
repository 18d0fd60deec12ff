-- How many tasks are pending, in one queue or in all. Said in the words of four partial indexes, so that no
-- finished row is read.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p)
SELECT cast(
    (SELECT count(*) FROM {schema}.pq_tasks t
    WHERE t.status = 'pending' AND t.due AND t.losses < 2 AND {conditions})
    + (SELECT count(*) FROM {schema}.pq_tasks t
    WHERE t.status = 'pending' AND t.losses >= 2 AND t.due AND {conditions})
    + (SELECT count(*) FROM {schema}.pq_tasks t WHERE t.status = 'pending' AND NOT t.due AND {conditions})
    + (SELECT count(*) FROM {schema}.pq_tasks t
    WHERE t.status = 'blocked' AND t.lane IS NOT NULL AND {conditions})
AS text) FROM input
