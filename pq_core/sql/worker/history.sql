-- The history that the server at the other end writes: system identifier and timeline, NULL where it does not tell.
SELECT h.system, h.timeline FROM {schema}.pq_history() h;
