-- After the index, which was built before, without blocking anybody.
-- {schema} is the quoted schema name, {schema_text} the same as a quoted literal.

-- Asked to interrupt what it runs and to leave. Who asks sets drain_requested as well: a worker of older code, which knows
-- that alone, then leaves when what it runs has ended.
ALTER TABLE {schema}.pq_workers ADD COLUMN stop_requested boolean NOT NULL DEFAULT false;

UPDATE {schema}.pq_schema SET revision = 4;
