-- Before the rest of this revision, in a transaction of its own, so that the index on it can be built without blocking
-- anybody. Run again after an end in between, it changes nothing.
-- {schema} is the quoted schema name, {schema_text} the same as a quoted literal.

-- Set for tasks with limits of their own: what they share them with, as one hash. The key comes first: a search that
-- begins anywhere is fair to keys.
ALTER TABLE {schema}.pq_tasks ADD COLUMN IF NOT EXISTS lane text COLLATE "C";
