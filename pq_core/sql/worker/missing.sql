-- What this code needs and the schema $1 does not have, in words, one row each: of the columns ($2, $3: table, name), the
-- functions ($4) and the triggers ($5, $6: table, name). A table that is not there is named once, without its columns.
WITH here AS (
    SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname = $1::text
), tables AS (
    SELECT c.oid, c.relname::text AS name FROM pg_catalog.pg_class c JOIN here ON c.relnamespace = here.oid
    WHERE c.relkind IN ('r', 'p')
)
SELECT m.words FROM (
    SELECT DISTINCT CASE WHEN t.oid IS NULL THEN 'the table ' || w.relation
        ELSE 'the column ' || w.relation || '.' || w.name END
    FROM unnest($2::text[], $3::text[]) w(relation, name) LEFT JOIN tables t ON t.name = w.relation
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = t.oid AND a.attname = w.name AND a.attnum > 0 AND NOT a.attisdropped)
    UNION ALL
    SELECT 'the function ' || f.name FROM unnest($4::text[]) f(name)
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN here ON p.pronamespace = here.oid WHERE p.proname = f.name)
    UNION ALL
    SELECT 'the trigger ' || w.name || ' on ' || w.relation FROM unnest($5::text[], $6::text[]) w(relation, name)
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g JOIN tables t ON t.oid = g.tgrelid
        WHERE t.name = w.relation AND g.tgname = w.name)
) m(words) ORDER BY m.words
