-- After everything else of this revision.
-- {schema} is the quoted schema name, {schema_text} the same as a quoted literal.

UPDATE {schema}.pq_schema SET revision = 5;
