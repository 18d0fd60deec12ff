-- Put schedules aside that can't be worked out (somebody has changed the row by hand): they say why, and are looked at
-- again later. Only as they were when that was found.
--
-- $1 jsonb             id, seen (next_run), updated (updated_at), error
-- $2 double precision  seconds until the next look
UPDATE {schema}.pq_periodic s
SET error = d.error, next_run = clock_timestamp() + $2::double precision * interval '1 second'
FROM jsonb_to_recordset($1::jsonb) AS d(id bigint, seen timestamptz, updated timestamptz, error text)
WHERE s.id = d.id AND s.active AND s.updated_at = d.updated AND s.next_run IS NOT DISTINCT FROM d.seen
RETURNING s.id;
