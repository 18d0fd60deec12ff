-- Which history a server writes. A standby that was promoted before it had everything, and a restore to an earlier time,
-- go on from a history of which a worker may remember more: what it did there never happened.
-- {schema} is the quoted schema name, {schema_text} the same as a quoted literal.

-- The system identifier and the timeline; NULL on a standby, and where a hosted server does not tell.
CREATE OR REPLACE FUNCTION {schema}.pq_history(OUT system text, OUT timeline bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $pq$
BEGIN
    IF NOT pg_is_in_recovery() THEN
        SELECT c.system_identifier::text,
            ('x' || lpad(left(pg_walfile_name(pg_current_wal_lsn()), 8), 16, '0'))::bit(64)::bigint
        INTO system, timeline
        FROM pg_control_system() c;
    END IF;
EXCEPTION WHEN OTHERS THEN
    -- Forbidden, or not there at all: a worker then goes by its lease and its claims alone.
    system := NULL;
    timeline := NULL;
END
$pq$;
REVOKE EXECUTE ON FUNCTION {schema}.pq_history() FROM PUBLIC;
