-- Store a new key's digest. One row: its id; none if it would have expired already.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), stored AS (
    INSERT INTO {schema}.pq_keys (name, role, prefix, digest, created_by, expires_at)
    SELECT p ->> 'name', p ->> 'role', p ->> 'prefix', decode(p ->> 'digest', 'hex'), p ->> 'created_by',
        cast(p ->> 'expires_at' AS timestamptz)
    FROM input
    WHERE p ->> 'expires_at' IS NULL OR cast(p ->> 'expires_at' AS timestamptz) > clock_timestamp()
    RETURNING id
)
SELECT cast(s.id AS text) FROM stored s
