-- Tell all workers nothing, to see whether notifications arrive: a pooler between may keep them back.
SELECT pg_notify({schema}.pq_channel('wake'), '!hear');
