-- End a key. One row when it was not revoked before: its id.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), revoked AS (
    UPDATE {schema}.pq_keys k SET revoked_at = clock_timestamp()
    WHERE k.id = (SELECT cast(p ->> 'id' AS bigint) FROM input) AND k.revoked_at IS NULL
    RETURNING k.id
)
SELECT cast(r.id AS text) FROM revoked r
