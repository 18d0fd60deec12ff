-- Add what the worker measured to a run that completed itself. Invariant: never touches a later claim's row.
--
-- $1 bigint task  $2 bigint fence  $3 jsonb ledger  $4 text output
WITH finished AS (
    UPDATE {schema}.pq_tasks SET ledger = $3::jsonb, output = $4::text
    WHERE id = $1::bigint AND fence = $2::bigint AND status = 'completed'
)
UPDATE {schema}.pq_attempts SET ledger = $3::jsonb, output = $4::text
WHERE task_id = $1::bigint AND fence = $2::bigint;
