-- Delete a schedule; its tasks stay. One row: its id.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), removed AS (
    DELETE FROM {schema}.pq_periodic s WHERE s.removed_at IS NULL AND {conditions} RETURNING s.id
)
SELECT cast(r.id AS text) FROM removed r
