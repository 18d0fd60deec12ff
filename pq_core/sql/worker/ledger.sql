-- Add what the worker measured to a run that completed itself. Invariant: never touches a later claim's row.
--
-- $1 bigint task  $2 bigint fence  $3 jsonb ledger  $4 text output  $5 timestamptz when it was claimed
WITH finished AS (
    UPDATE {schema}.pq_tasks SET ledger = $3::jsonb, output = $4::text
    -- Never waiting: an application that upserts the same task may hold its row for long.
    WHERE id = (SELECT t.id FROM {schema}.pq_tasks t WHERE t.id = $1::bigint AND t.fence = $2::bigint
        AND t.started_at = $5::timestamptz AND t.status = 'completed' FOR NO KEY UPDATE SKIP LOCKED)
)
UPDATE {schema}.pq_attempts SET ledger = $3::jsonb, output = $4::text
WHERE task_id = $1::bigint AND fence = $2::bigint AND started_at = $5::timestamptz;
