-- What this revision creates is granted to those who need it to go on with what they may do already: workers and clients
-- work before somebody runs the script of `pq migrate --roles` again. To the three roles it gives the same as that script.
-- Nothing is granted to PUBLIC.
-- {schema} is the quoted schema name, {schema_text} the same as a quoted literal, {tasks_text} the literal of
-- the qualified name of pq_tasks.

DO $pq$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        WITH held AS MATERIALIZED (
            SELECT a.grantee, a.privilege_type, NULL::name AS attname
            FROM pg_catalog.pg_class c,
                LATERAL pg_catalog.aclexplode(coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))) a
            WHERE c.oid = {tasks_text}::pg_catalog.regclass
            UNION
            SELECT a.grantee, a.privilege_type, t.attname
            FROM pg_catalog.pg_attribute t, LATERAL pg_catalog.aclexplode(t.attacl) a
            WHERE t.attrelid = {tasks_text}::pg_catalog.regclass AND NOT t.attisdropped
        ), working AS MATERIALIZED (
            -- Who changes tasks ends and wakes. The functions that the others call run with the rights of their owners.
            SELECT h.grantee FROM held h WHERE h.privilege_type = 'UPDATE'
            UNION
            SELECT a.grantee
            FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace,
                LATERAL pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
            WHERE n.nspname = {schema_text} AND p.proname = 'pq_claim_limited'
            UNION
            SELECT p.proowner FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname = {schema_text} AND p.proname IN ('pq_enqueue', 'pq_enqueue_array')
        ), given (what, grantee) AS (
            SELECT pg_catalog.format('SELECT, INSERT, UPDATE, DELETE ON %I.pq_waits', {schema_text}), h.grantee
            FROM held h WHERE h.privilege_type IN ('UPDATE', 'DELETE')
            UNION
            -- Who copies the tables, and nothing else.
            SELECT pg_catalog.format('SELECT ON %I.pq_waits', {schema_text}), h.grantee
            FROM held h WHERE h.privilege_type = 'SELECT' AND h.attname IS NULL
            UNION
            SELECT pg_catalog.format('%s (uncounted_starts, uncounted_in_a_row) ON %s', h.privilege_type, {tasks_text}), h.grantee
            FROM held h WHERE h.attname = 'losses'
            UNION
            SELECT pg_catalog.format('EXECUTE ON FUNCTION %s', p.oid::pg_catalog.regprocedure), w.grantee
            FROM working w, pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname = {schema_text} AND p.proname IN ('pq_lock_in_order', 'pq_wake', 'pq_history')
        )
        SELECT pg_catalog.format('GRANT %s TO %I', g.what, r.rolname)
        FROM given g JOIN pg_catalog.pg_roles r ON r.oid = g.grantee
        WHERE r.rolname <> current_user
    LOOP
        EXECUTE statement;
    END LOOP;
END
$pq$;
