-- Dead and live rows of pq's tables, whether autovacuum may work on them, when it last did: one row per table.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p)
SELECT cast(json_build_object('name', s.relname, 'dead', s.n_dead_tup, 'live', s.n_live_tup,
    'vacuumed', greatest(s.last_vacuum, s.last_autovacuum),
    'autovacuum', current_setting('autovacuum')::boolean AND NOT coalesce(c.reloptions @> ARRAY['autovacuum_enabled=false'], false),
    'bytes', pg_total_relation_size(c.oid)) AS text)
FROM input, pg_catalog.pg_stat_user_tables s JOIN pg_catalog.pg_class c ON c.oid = s.relid
WHERE s.schemaname = {schema_text} AND p -> 'tables' ? s.relname::text
ORDER BY s.relname
