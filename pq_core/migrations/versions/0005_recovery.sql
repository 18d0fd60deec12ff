-- How short-lived workers take over what a dead one left; how often a task may start in all.
-- {schema} is the quoted schema name, {schema_text} the same as a quoted literal.

-- When somebody first saw that this lease had ended. It counts while it is later than expires_at, which a renewal moves
-- past it, also one by older code, and later than the start of the server: rescue.sql.
ALTER TABLE {schema}.pq_workers ADD COLUMN IF NOT EXISTS expired_seen_at timestamptz;

-- Starts that do not count as attempts: interrupted when the worker stopped, or lost with it. How many since the task was
-- enqueued, retried or replaced, and how many of these followed one another. NULL is none.
ALTER TABLE {schema}.pq_tasks ADD COLUMN IF NOT EXISTS uncounted_starts integer,
    ADD COLUMN IF NOT EXISTS uncounted_in_a_row integer;

-- As in revision 2, with `max_starts` (how often it may start in all, counted or not; 0: any number), stored in `options`.
CREATE OR REPLACE FUNCTION {schema}.pq_enqueue_problem(item jsonb) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $pq$
    SELECT CASE
        WHEN jsonb_typeof(item) IS DISTINCT FROM 'object' THEN
            'each task must be a JSON object, got ' || coalesce(jsonb_typeof(item), 'NULL')
        WHEN coalesce(item ->> 'name', '') = '' THEN 'a task needs a "name"'
        WHEN jsonb_typeof(item -> 'args') NOT IN ('array', 'null') THEN '"args" must be a JSON array'
        WHEN jsonb_typeof(item -> 'kwargs') NOT IN ('object', 'null') THEN '"kwargs" must be a JSON object'
        WHEN jsonb_typeof(item -> 'headers') NOT IN ('object', 'null') THEN '"headers" must be a JSON object'
        WHEN jsonb_typeof(item -> 'backoff') NOT IN ('object', 'null') THEN '"backoff" must be a JSON object'
        WHEN jsonb_typeof(item -> 'sensitive') NOT IN ('boolean', 'null') THEN '"sensitive" must be true or false'
        WHEN item ->> 'unique' NOT IN ('retained', 'unfinished') THEN '"unique" must be retained or unfinished'
        WHEN item ->> 'on_lost' NOT IN ('retry', 'fail') THEN '"on_lost" must be retry or fail'
        WHEN item ->> 'on_duplicate' NOT IN ('raise', 'return', 'replace') THEN
            '"on_duplicate" must be return, replace or raise'
        WHEN item ->> 'on_duplicate' = 'replace' AND item ->> 'client_id' IS NULL THEN
            'on_duplicate = replace needs a "client_id"'
        -- As the client's limit. Longer ones would not fit into an index: a version parked on a running task with such a
        -- queue would be stored and then keep that run from ever ending.
        WHEN greatest(length(item ->> 'name'), length(item ->> 'queue'), length(item ->> 'client_id')) > 255 THEN
            '"name", "queue" and "client_id" have 255 characters at most'
        WHEN length(item ->> 'concurrency_key') > 255 THEN '"concurrency_key" has 255 characters at most'
        WHEN item ->> 'concurrency_limit' IS NOT NULL AND item ->> 'concurrency_key' IS NULL THEN
            '"concurrency_limit" needs a "concurrency_key"'
        -- What could be stored and never be run as it says, at the price of one look for all of it: in a path, only
        -- numbers compare with numbers, and what is missing or null fulfils no condition.
        WHEN item @? '$ ? (@.name.type() != "string" || @.queue == "" || @.max_attempts < 1 || @.timeout <= 0
            || @.max_runtime_seconds <= 0 || @.memory_limit <= 0 || @.grace < 0 || @.result_limit < 0
            || (@.queue.type() != "string" && @.queue.type() != "null")
            || (@.client_id.type() != "string" && @.client_id.type() != "null") || @.client_id == ""
            || (@.concurrency_key.type() != "string" && @.concurrency_key.type() != "null") || @.concurrency_key == ""
            || @.max_starts < 0 || @.concurrency_limit < 1 || @.concurrency < 1 || @.rate < 0.000000001
            || exists (@.run_at ? (!(@ like_regex "^[-0-9]+[T ][0-9:.]+ ?(Z|[-+][0-9:]+)$"))))'
        THEN {schema}.pq_enqueue_misfit(item)
        -- NULL when all are known.
        ELSE 'unknown option ' || cast(jsonb_path_query_first(item - ARRAY['name', 'args', 'kwargs', 'queue',
            'priority', 'run_at', 'run_in', 'client_id', 'unique', 'on_duplicate', 'max_attempts', 'timeout',
            'max_runtime_seconds', 'memory_limit', 'grace', 'result_limit', 'on_lost', 'backoff', 'on_failure',
            'headers', 'version', 'schedule_id', 'tick_at', 'sensitive', 'concurrency', 'rate',
            'concurrency_key', 'concurrency_limit', 'max_starts'], '$.keyvalue().key') AS text)
    END
$pq$;

CREATE OR REPLACE FUNCTION {schema}.pq_enqueue_misfit(item jsonb) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $pq$
    SELECT CASE
        WHEN jsonb_typeof(item -> 'name') <> 'string' THEN '"name" must be text'
        WHEN jsonb_typeof(item -> 'queue') NOT IN ('string', 'null') OR item ->> 'queue' = '' THEN
            '"queue" must be text that is not empty'
        WHEN jsonb_typeof(item -> 'client_id') NOT IN ('string', 'null') OR item ->> 'client_id' = '' THEN
            '"client_id" must be text that is not empty'
        WHEN jsonb_typeof(item -> 'concurrency_key') NOT IN ('string', 'null') OR item ->> 'concurrency_key' = '' THEN
            '"concurrency_key" must be text that is not empty'
        WHEN item @? '$.max_attempts ? (@ < 1)' THEN '"max_attempts" must be at least 1'
        WHEN item @? '$.timeout ? (@ <= 0)' THEN '"timeout" must be above 0'
        WHEN item @? '$.max_runtime_seconds ? (@ <= 0)' THEN '"max_runtime_seconds" must be above 0'
        WHEN item @? '$.memory_limit ? (@ <= 0)' THEN '"memory_limit" must be above 0'
        WHEN item @? '$.grace ? (@ < 0)' THEN '"grace" must not be negative'
        WHEN item @? '$.result_limit ? (@ < 0)' THEN '"result_limit" must not be negative'
        WHEN item @? '$.max_starts ? (@ < 0)' THEN '"max_starts" must not be negative'
        WHEN item @? '$.concurrency_limit ? (@ < 1)' THEN '"concurrency_limit" must be at least 1'
        WHEN item @? '$.concurrency ? (@ < 1)' THEN '"concurrency" must be at least 1'
        WHEN item @? '$.rate ? (@ <= 0)' THEN '"rate" must be above 0: starts per second'
        -- Its inverse, which a claim takes, would be no number any more, or no time.
        WHEN item @? '$.rate ? (@ < 0.000000001)' THEN '"rate" must be at least 1e-9: starts per second'
        ELSE '"run_at" must be a date and a time with an offset, like 2030-01-31T08:00:00+01:00'
    END
$pq$;

CREATE OR REPLACE FUNCTION {schema}.pq_enqueue_rows(items jsonb, moment timestamptz) RETURNS TABLE (n bigint, client_id text,
    client_id_unique text, name text, payload jsonb, queue text, priority smallint, run_at timestamptz, due boolean,
    created_at timestamptz, max_attempts integer, max_runtime_seconds double precision, on_lost text, on_failure jsonb,
    headers jsonb, version integer, schedule_id bigint, tick_at timestamptz, options jsonb)
LANGUAGE sql STABLE PARALLEL SAFE AS $pq$
    SELECT e.n, e.client_id, CASE WHEN e.client_id IS NOT NULL THEN coalesce(e."unique", 'retained') END, e.name,
        jsonb_build_object('args', coalesce(nullif(e.args, 'null'), '[]'),
            'kwargs', coalesce(nullif(e.kwargs, 'null'), '{{}}')),
        coalesce(e.queue, 'default'), coalesce(e.priority, 50::smallint), s.at, s.at <= moment, moment,
        coalesce(e.max_attempts, 1), coalesce(e.timeout, e.max_runtime_seconds), coalesce(e.on_lost, 'retry'),
        nullif(e.on_failure, 'null'), nullif(e.headers, 'null'), coalesce(e.version, 1), e.schedule_id, e.tick_at,
        CASE WHEN num_nonnulls(e.memory_limit, e.grace, e.result_limit, e.backoff, e.sensitive, e.concurrency, e.rate,
            e.concurrency_key, e.max_starts) > 0 THEN
            nullif(jsonb_strip_nulls(jsonb_build_object('memory_limit', e.memory_limit, 'grace', e.grace,
                'result_limit', e.result_limit, 'backoff', e.backoff, 'sensitive', e.sensitive,
                'max_starts', nullif(e.max_starts, 0), 'limits',
                CASE WHEN num_nonnulls(e.concurrency, e.rate, e.concurrency_key) > 0 THEN
                    jsonb_build_object('key', e.concurrency_key, 'at_once',
                        CASE WHEN e.concurrency_key IS NOT NULL THEN coalesce(e.concurrency_limit, 1) END,
                        'concurrency', e.concurrency, 'rate', e.rate)
                END)), '{{}}')
        END
    FROM ROWS FROM (jsonb_to_recordset(items) AS (
            name text, args jsonb, kwargs jsonb, queue text, priority smallint, run_at timestamptz,
            run_in double precision, client_id text, "unique" text, max_attempts integer, timeout double precision,
            max_runtime_seconds double precision, memory_limit bigint, grace double precision, result_limit bigint,
            on_lost text, backoff jsonb, on_failure jsonb, headers jsonb, version integer, schedule_id bigint,
            tick_at timestamptz, sensitive boolean, concurrency integer, rate double precision, concurrency_key text,
            concurrency_limit integer, max_starts integer)) WITH ORDINALITY AS e(
            name, args, kwargs, queue, priority, run_at, run_in, client_id, "unique", max_attempts, timeout,
            max_runtime_seconds, memory_limit, grace, result_limit, on_lost, backoff, on_failure, headers, version,
            schedule_id, tick_at, sensitive, concurrency, rate, concurrency_key, concurrency_limit,
            max_starts, n),
        LATERAL (SELECT CASE WHEN e.run_in IS NULL THEN coalesce(e.run_at, moment)
            ELSE coalesce(e.run_at, moment) + e.run_in * interval '1 second' END) s(at)
$pq$;

-- As in the first schema; a new version has not been started yet.
CREATE OR REPLACE FUNCTION {schema}.pq_apply_parked() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $pq$
BEGIN
    NEW := jsonb_populate_record(NEW, NEW.parked);
    NEW.parked := NULL;
    NEW.status := 'pending';
    NEW.due := NEW.run_at <= clock_timestamp();
    NEW.attempts := 0;
    NEW.losses := 0;
    NEW.lone_losses := 0;
    NEW.snoozes := 0;
    NEW.uncounted_starts := NULL;
    NEW.uncounted_in_a_row := NULL;
    NEW.alone := false;
    NEW.worker_id := NULL;
    NEW.started_at := NULL;
    NEW.completed_at := NULL;
    NEW.cancel_requested_at := NULL;
    NEW.cancel_reason := NULL;
    NEW.unroutable_since := NULL;
    NEW.outcome := NULL;
    NEW.error := NULL;
    NEW.error_fingerprint := NULL;
    NEW.result := NULL;
    NEW.ledger := NULL;
    NEW.output := NULL;
    NEW.progress := NULL;
    NEW.progress_message := NULL;
    RETURN NEW;
END
$pq$;
