-- What databases lack that were made while revision 2 was still edited is brought by pq_core/migrations/repair.py, before
-- any revision. This is what it leaves to be done; elsewhere it changes nothing.
-- {schema} is the quoted schema name, {schema_text} the same as a quoted literal.

ALTER TABLE {schema}.pq_tasks VALIDATE CONSTRAINT pq_tasks_possible;
