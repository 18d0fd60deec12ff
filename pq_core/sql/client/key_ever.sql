-- Whether there has ever been a key: one row, or none. Keys that were revoked or have expired stay in the table.
SELECT '1' FROM {schema}.pq_keys k WHERE (SELECT cast({parameters} AS text)) IS NOT NULL LIMIT 1
