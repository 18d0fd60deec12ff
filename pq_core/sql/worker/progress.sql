-- Store how far running tasks are, and what they printed lately.
-- Invariant: fenced like a report; locked rows are left for the next time.
--
-- $1 bigint worker  $2 jsonb array of id, fence, started_at, told (true: it said how far it is), share, message, output
UPDATE {schema}.pq_tasks t SET progress = CASE WHEN p.told THEN p.share ELSE t.progress END,
    progress_message = CASE WHEN p.told THEN p.message ELSE t.progress_message END, output = coalesce(p.output, t.output)
FROM jsonb_to_recordset($2::jsonb) AS p(id bigint, fence bigint, told boolean, share real, message text, output text)
WHERE t.id = p.id AND t.id IN (
    SELECT o.id FROM {schema}.pq_tasks o
    JOIN jsonb_to_recordset($2::jsonb) AS q(id bigint, fence bigint, started_at timestamptz) ON o.id = q.id
    WHERE o.status = 'running' AND o.worker_id = $1::bigint AND o.fence = q.fence AND o.started_at = q.started_at
    FOR NO KEY UPDATE OF o SKIP LOCKED);
