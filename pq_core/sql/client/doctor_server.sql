-- What the server says of itself: version, time, connections in use and allowed, whether it is a standby.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p)
SELECT cast(json_build_object(
    'version', current_setting('server_version_num')::integer,
    'time', extract(epoch FROM clock_timestamp()),
    'pid', pg_backend_pid(),
    'standby', pg_is_in_recovery(),
    'most', current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer,
    'used', (SELECT count(*) FROM pg_catalog.pg_stat_activity a WHERE a.backend_type = 'client backend'),
    'database_most', (SELECT d.datconnlimit FROM pg_catalog.pg_database d WHERE d.datname = current_database()),
    'database_used', (SELECT count(*) FROM pg_catalog.pg_stat_activity a WHERE a.datname = current_database()
        AND a.backend_type = 'client backend'),
    'role_most', (SELECT r.rolconnlimit FROM pg_catalog.pg_roles r WHERE r.rolname = current_user),
    'role_used', (SELECT count(*) FROM pg_catalog.pg_stat_activity a WHERE a.usename = current_user
        AND a.backend_type = 'client backend')
) AS text) FROM input
