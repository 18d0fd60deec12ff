-- Three roles for the tables of pq in the schema {schema}. None of them can log in: grant them to roles that can,
--     GRANT {producer} TO web;
-- Run this as the owner of the tables, again after each `pq migrate`: it takes away and gives anew, in one transaction.
-- Invariant: after it each of the three has on pq's tables and functions what stands here, and nothing else.
BEGIN;

DO $pq$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY[{producer_text}, {worker_text}, {viewer_text}] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = role) THEN
            EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', role);
        END IF;
    END LOOP;
END
$pq$;

GRANT USAGE ON SCHEMA {schema} TO {producer}, {worker}, {viewer};
REVOKE ALL ON {tables} FROM {producer}, {worker}, {viewer};

-- No function of pq's is for everybody.
DO $pq$
DECLARE
    signature text;
BEGIN
    FOR signature IN
        SELECT pg_catalog.format('%I.%I(%s)', n.nspname, p.proname,
            pg_catalog.pg_get_function_identity_arguments(p.oid))
        FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = {schema_text} AND p.proname = ANY (ARRAY[{functions}])
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC, %I, %I, %I', signature, {producer_text},
            {worker_text}, {viewer_text});
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %I', signature, {worker_text});
    END LOOP;
END
$pq$;

-- Which code can work with the tables: everybody looks.
GRANT SELECT ON {schema}.pq_schema TO {producer}, {worker}, {viewer};

-- The producer enqueues, by the one function, with its owner's rights. It reads no task, and learns of no other task
-- than that somebody has taken a client_id.
GRANT EXECUTE ON FUNCTION {schema}.pq_enqueue(jsonb) TO {producer};

-- The worker runs tasks, and is what the command line needs. It may not change the tables themselves, nor see the keys of
-- the dashboard and the audit log.
GRANT SELECT, INSERT, UPDATE, DELETE ON {worked} TO {worker};

-- The viewer sees what happens, and neither arguments nor results nor output.
GRANT SELECT ON {schema}.pq_workers, {schema}.pq_queues, {schema}.pq_statistics, {schema}.pq_limits TO {viewer};
GRANT SELECT (id, run_at, created_at, started_at, completed_at, cancel_requested_at, unroutable_since, fence, worker_id,
    schedule_id, tick_at, max_runtime_seconds, progress, version, attempts, max_attempts, losses, lone_losses, snoozes,
    uncounted_starts, uncounted_in_a_row,
    priority, due, alone, status, queue, name, on_lost, client_id, client_id_unique, concurrency_key, lane, outcome, error,
    error_fingerprint, cancel_reason, progress_message, options, ledger) ON {schema}.pq_tasks TO {viewer};
GRANT SELECT (id, task_id, fence, number, worker_id, outcome, started_at, finished_at, error, fingerprint, ledger)
    ON {schema}.pq_attempts TO {viewer};
GRANT SELECT (id, client_id, name, key, priority, run_every, cron, timezone, next_run, last_run, start_at, end_at, jitter,
    catch_up, catch_up_limit, max_concurrent, active, max_runtime_seconds, queue, version, max_attempts, app, declared_by,
    skipped, last_skipped_at, missed, ended_at, removed_at, error, created_at, updated_at)
    ON {schema}.pq_periodic TO {viewer};
GRANT EXECUTE ON FUNCTION {schema}.pq_channel(text) TO {producer}, {viewer};
GRANT EXECUTE ON FUNCTION {schema}.pq_limit_slack(double precision) TO {viewer};

COMMIT;
