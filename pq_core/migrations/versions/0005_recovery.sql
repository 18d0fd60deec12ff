-- How short-lived workers take over what a dead one left.
-- {schema} is the quoted schema name, {schema_text} the same as a quoted literal.

-- When somebody first saw that this lease had ended. It counts while it is later than expires_at, which a renewal moves
-- past it, also one by older code, and later than the start of the server: rescue.sql.
ALTER TABLE {schema}.pq_workers ADD COLUMN IF NOT EXISTS expired_seen_at timestamptz;
