-- What keeps dead rows from being cleared away: transactions open longer than `seconds`, prepared ones, and replication
-- slots that hold a snapshot; the oldest first. Autovacuum's own are left out.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), old AS (
    SELECT clock_timestamp() - cast(p ->> 'seconds' AS double precision) * interval '1 second' AS moment FROM input
)
SELECT cast(row_to_json(f) AS text) FROM (
    SELECT 'transaction' AS kind, a.pid::text AS name, coalesce(a.application_name, '') AS application, a.state,
        extract(epoch FROM clock_timestamp() - a.xact_start) AS age
    FROM pg_catalog.pg_stat_activity a, old
    WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
        AND a.xact_start < old.moment
    UNION ALL
    SELECT 'prepared transaction', x.gid, x.owner::text, 'prepared', extract(epoch FROM clock_timestamp() - x.prepared)
    FROM pg_catalog.pg_prepared_xacts x, old WHERE x.database = current_database() AND x.prepared < old.moment
    UNION ALL
    SELECT 'replication slot', s.slot_name::text, coalesce(s.plugin::text, 'physical'), 'inactive', NULL
    FROM pg_catalog.pg_replication_slots s WHERE NOT s.active AND (s.xmin IS NOT NULL OR s.catalog_xmin IS NOT NULL)
    ORDER BY age DESC NULLS LAST
    LIMIT 20
) f
