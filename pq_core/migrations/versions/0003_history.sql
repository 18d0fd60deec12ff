-- After the index, which was built before, without blocking anybody.
-- {schema} is the quoted schema name, {schema_text} the same as a quoted literal.

-- Reads all tasks once and blocks nobody; tools that reflect tables stumble over constraints that were never validated.
ALTER TABLE {schema}.pq_tasks VALIDATE CONSTRAINT pq_tasks_possible;

UPDATE {schema}.pq_schema SET revision = 3;
