-- The keys that are neither revoked nor expired; `used` are noted as used, each at most once per minute, so that the row
-- of a key in constant use is not written all the time.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), noted AS (
    UPDATE {schema}.pq_keys k SET last_used_at = clock_timestamp()
    WHERE k.id IN (SELECT cast(i AS bigint) FROM input, jsonb_array_elements_text(p -> 'used') i)
        AND (k.last_used_at IS NULL OR k.last_used_at < clock_timestamp() - interval '1 minute')
)
SELECT cast(json_build_array(k.id, k.name, k.role, encode(k.digest, 'hex')) AS text)
FROM {schema}.pq_keys k
WHERE k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())
ORDER BY k.id
