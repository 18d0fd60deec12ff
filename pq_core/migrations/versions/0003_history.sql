-- Nothing but the revision: the index was built before, without blocking anybody.
-- {schema} is the quoted schema name, {schema_text} the same as a quoted literal.

UPDATE {schema}.pq_schema SET revision = 3;
