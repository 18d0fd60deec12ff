-- Every index of pq's tables, with whether it can be used: one row each.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p)
SELECT cast(json_build_object('name', i.relname, 'valid', x.indisvalid AND x.indisready) AS text)
FROM input, pg_catalog.pg_index x
    JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
    JOIN pg_catalog.pg_class t ON t.oid = x.indrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
WHERE n.nspname = {schema_text} AND p -> 'tables' ? t.relname::text
ORDER BY i.relname
