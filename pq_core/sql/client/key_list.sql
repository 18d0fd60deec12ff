-- All keys without their digests, the oldest first.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p)
SELECT cast(row_to_json(r) AS text) FROM (
    SELECT k.id, k.name, k.role, k.prefix, k.created_at, k.created_by, k.expires_at, k.last_used_at, k.revoked_at,
        k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp()) AS active
    FROM {schema}.pq_keys k, input
    ORDER BY k.id
) r
