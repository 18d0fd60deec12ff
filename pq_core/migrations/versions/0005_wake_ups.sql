-- {schema} is the quoted schema name, {schema_text} the same as a quoted literal.

-- Whose end somebody waits for. Written by waiters, deleted by whoever ends the task, which then notifies. The row of the
-- task is left alone: a claim passes by what is locked. Several rows of one task do no harm, and nothing is lost with the
-- table after a crash or on a promoted standby: waiters ask again and note it anew.
CREATE UNLOGGED TABLE IF NOT EXISTS {schema}.pq_waits (
    task_id  bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX IF NOT EXISTS pq_waits_task ON {schema}.pq_waits (task_id);

-- Lock tasks of one lane in the order given, as far as nobody else holds one: what comes after that must not overtake it.
CREATE OR REPLACE FUNCTION {schema}.pq_lock_in_order(wanted bigint[], state text) RETURNS bigint[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $pq$
DECLARE
    got bigint[];
BEGIN
    got := ARRAY(SELECT t.id FROM {schema}.pq_tasks t WHERE t.id = ANY (wanted) AND t.status = state AND t.due
        FOR UPDATE OF t SKIP LOCKED);
    RETURN ARRAY(SELECT u.id FROM unnest(wanted) WITH ORDINALITY u(id, n)
        WHERE u.n < coalesce((SELECT min(m.n) FROM unnest(wanted) WITH ORDINALITY m(id, n) WHERE m.id <> ALL (got)),
            cardinality(wanted) + 1)
        ORDER BY u.n);
END
$pq$;
REVOKE EXECUTE ON FUNCTION {schema}.pq_lock_in_order(bigint[], text) FROM PUBLIC;

-- Claim up to `room` tasks that have limits, of these queues and bands of priorities. Invariant: as in claim_one_queue.sql;
-- and at no time run more tasks of a queue, a function or a key than its limit says, nor start more than its rate says.
-- One claim at a time decides that: under the lock each statement below sees what the claims before it have taken.
-- `idle`: the worker runs nothing, so it may get a task that was lost twice; that comes alone.
-- Returns the tasks, columns as there, with next_in NULL; then, if anything waits for its limit, a row without id that
-- says in how many seconds another claim may get something.
-- Where a key, or one place alone, promises an order, what somebody else has locked is waited for and not passed by.
-- A rate that is 0 or below, or beyond all numbers (only SQL past pq_enqueue can store that), is one start in 1e9 s: an
-- error here would hold back every task of this worker.
CREATE OR REPLACE FUNCTION {schema}.pq_claim_limited(worker bigint, serves text[], lows integer[], highs integer[], room integer,
    idle boolean)
RETURNS TABLE (id bigint, name text, queue text, priority smallint, fence bigint, number integer, max_attempts integer,
    payload text, headers text, version integer, run_at timestamptz, created_at timestamptz, started_at timestamptz,
    client_id text, timeout double precision, options text, losses integer, snoozes integer, schedule_id bigint,
    tick_at timestamptz, on_lost text, unroutable double precision, next_in double precision)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $pq$
#variable_conflict use_column
DECLARE
    moment   timestamptz;
    limited  jsonb;           -- queue -> its limits
    opened   text[];          -- the queues that are not paused, in any order
    used     jsonb;           -- subject -> how many run
    found_   bigint[] := '{{}}';
    ids      bigint[];
    wanted   bigint[];
    whole    boolean := false;
    soonest  double precision;
    one      text;
    half     integer;
    places   bigint;
    wait     double precision;
    part     record;
    head     record;
    begin_at text COLLATE "C";
    behind   text COLLATE "C";
    wrapped  boolean;
    visits   integer := 0;
BEGIN
    SELECT jsonb_object_agg(q.name, jsonb_build_object('at_once', q.concurrency_limit, 'every',
        extract(epoch FROM coalesce(q.rate_period, interval '1 second')) / CASE WHEN q.rate_limit IS NOT NULL THEN greatest(q.rate_limit, 1e-9) END))
    INTO limited FROM {schema}.pq_queues q
    WHERE q.name = ANY (serves) AND (q.concurrency_limit IS NOT NULL OR q.rate_limit IS NOT NULL);
    IF limited IS NULL AND NOT EXISTS (SELECT FROM {schema}.pq_tasks t
        WHERE t.status = 'blocked' AND t.lane IS NOT NULL AND t.queue = ANY (serves))
    THEN
        RETURN;
    END IF;
    PERFORM FROM {schema}.pq_workers w WHERE w.id = worker AND w.expires_at > clock_timestamp()
    FOR KEY SHARE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashtextextended({schema}.pq_channel('limits'), 0)) THEN
        next_in := 0.005;
        RETURN NEXT;
        RETURN;
    END IF;

    moment := clock_timestamp();
    limited := coalesce(limited, '{{}}');
    SELECT coalesce(array_agg(s.name ORDER BY random()), '{{}}') INTO opened FROM unnest(serves) s(name)
    WHERE NOT EXISTS (SELECT FROM {schema}.pq_queues q
        WHERE q.name = s.name AND (q.paused_at IS NOT NULL OR q.paused_until > moment));
    SELECT coalesce(jsonb_object_agg(u.subject, u.n), '{{}}') INTO used FROM (
        SELECT v.subject, count(*) AS n FROM {schema}.pq_tasks t CROSS JOIN LATERAL (VALUES
            (CASE WHEN limited ? t.queue THEN 'queue:' || t.queue END),
            (CASE WHEN t.options -> 'limits' ? 'concurrency' THEN 'task:' || t.name END),
            ('key:' || (t.options -> 'limits' ->> 'key'))) v(subject)
        WHERE t.status = 'running' AND v.subject IS NOT NULL
        GROUP BY v.subject) u;

    -- Tasks that have but their queue's limits, and those with limits of their own; now these first, now those.
    FOREACH half IN ARRAY CASE WHEN random() < 0.5 THEN ARRAY[1, 2] ELSE ARRAY[2, 1] END LOOP
    FOREACH one IN ARRAY opened LOOP
        EXIT WHEN whole OR cardinality(found_) >= room;
        IF half = 1 THEN
            CONTINUE WHEN NOT limited ? one;
            SELECT p.places, p.wait INTO places, wait FROM {schema}.pq_limit_places('queue:' || one,
                (limited -> one ->> 'at_once')::bigint, (used ->> ('queue:' || one))::bigint,
                (limited -> one ->> 'every')::double precision, moment) p;
            places := least(places, room - cardinality(found_));
            IF places > 0 AND idle AND found_ = '{{}}' THEN
                found_ := ARRAY(SELECT t.id FROM {schema}.pq_tasks t
                    WHERE t.status = 'pending' AND t.losses >= 2 AND t.run_at <= moment AND t.queue = one
                        AND EXISTS (SELECT FROM unnest(lows, highs) b(low, high) WHERE t.priority BETWEEN b.low AND b.high)
                    ORDER BY t.priority DESC, t.run_at LIMIT 1 FOR UPDATE OF t SKIP LOCKED);
                whole := found_ <> '{{}}';
            END IF;
            IF whole THEN
                ids := found_;
            ELSIF places > 0 AND (limited -> one ->> 'at_once')::bigint = 1 THEN
                wanted := ARRAY(SELECT t.id FROM {schema}.pq_tasks t
                    WHERE t.status = 'pending' AND t.due AND t.losses < 2 AND t.queue = one
                        AND EXISTS (SELECT FROM unnest(lows, highs) b(low, high) WHERE t.priority BETWEEN b.low AND b.high)
                    ORDER BY -t.priority::integer, t.run_at, t.id LIMIT 1);
                ids := {schema}.pq_lock_in_order(wanted, 'pending');
                IF ids <> wanted THEN
                    soonest := least(soonest, 0.05);
                    CONTINUE;
                END IF;
                found_ := found_ || ids;
            ELSIF places > 0 THEN
                ids := ARRAY(SELECT t.id FROM {schema}.pq_tasks t
                    WHERE t.status = 'pending' AND t.due AND t.losses < 2 AND t.queue = one
                        AND EXISTS (SELECT FROM unnest(lows, highs) b(low, high) WHERE t.priority BETWEEN b.low AND b.high)
                    ORDER BY -t.priority::integer, t.run_at, t.id LIMIT places FOR UPDATE OF t SKIP LOCKED);
                found_ := found_ || ids;
            ELSIF EXISTS (SELECT FROM {schema}.pq_tasks t
                WHERE t.status = 'pending' AND t.due AND t.losses < 2 AND t.queue = one)
            THEN
                soonest := least(soonest, wait);
                CONTINUE;
            ELSE
                CONTINUE;
            END IF;
            IF ids <> '{{}}' THEN
                used := used || jsonb_build_object('queue:' || one,
                    coalesce((used ->> ('queue:' || one))::bigint, 0) + cardinality(ids));
                IF limited -> one ->> 'every' IS NOT NULL THEN
                    PERFORM {schema}.pq_limit_spend('queue:' || one, (limited -> one ->> 'every')::double precision,
                        cardinality(ids), moment);
                END IF;
            END IF;
            IF cardinality(ids) >= places THEN
                SELECT least(soonest, coalesce(p.wait, 0)) INTO soonest FROM {schema}.pq_limit_places('queue:' || one,
                    (limited -> one ->> 'at_once')::bigint, (used ->> ('queue:' || one))::bigint,
                    (limited -> one ->> 'every')::double precision, moment) p;
            END IF;
            CONTINUE;
        END IF;

        -- Lane by lane, from anywhere on, once round.
        begin_at := md5(random()::text);
        behind := begin_at;
        wrapped := false;
        LOOP
            EXIT WHEN whole;
            IF cardinality(found_) >= room OR visits >= 300 THEN
                soonest := 0;
                EXIT;
            END IF;
            SELECT t.lane, t.name, t.losses, t.options -> 'limits' AS limits INTO head FROM {schema}.pq_tasks t
            WHERE t.status = 'blocked' AND t.lane IS NOT NULL AND t.queue = one AND t.lane > behind
                AND (t.losses < 2 OR (idle AND found_ = '{{}}'))
                AND EXISTS (SELECT FROM unnest(lows, highs) b(low, high) WHERE t.priority BETWEEN b.low AND b.high)
            ORDER BY t.lane, -t.priority::integer, t.run_at, t.id LIMIT 1;
            IF NOT FOUND THEN
                EXIT WHEN wrapped;
                wrapped := true;
                behind := '';
                CONTINUE;
            END IF;
            EXIT WHEN wrapped AND head.lane > begin_at;
            behind := head.lane;
            visits := visits + 1;
            -- The narrowest of its limits counts, and if one lets nothing pass, the longest of the waits.
            SELECT least(min(p.places), room - cardinality(found_)), max(p.wait) INTO places, wait
            FROM (VALUES ('key:' || (head.limits ->> 'key'), (head.limits ->> 'at_once')::bigint, NULL),
                ('task:' || head.name, (head.limits ->> 'concurrency')::bigint,
                    CASE WHEN head.limits ->> 'rate' IS NOT NULL THEN 1 / greatest(nullif((head.limits ->> 'rate')::double precision, 'NaN'), 1e-9) END),
                ('queue:' || one, (limited -> one ->> 'at_once')::bigint,
                    (limited -> one ->> 'every')::double precision)) s(subject, at_once, every)
            CROSS JOIN LATERAL {schema}.pq_limit_places(s.subject, s.at_once, (used ->> s.subject)::bigint, s.every, moment) p
            WHERE s.subject IS NOT NULL;
            IF places <= 0 THEN
                soonest := least(soonest, wait);
                CONTINUE;
            END IF;
            whole := head.losses >= 2;
            IF head.limits ? 'key' OR (head.limits ->> 'concurrency')::bigint = 1
                OR (limited -> one ->> 'at_once')::bigint = 1
            THEN
                wanted := ARRAY(SELECT t.id FROM {schema}.pq_tasks t
                    WHERE t.status = 'blocked' AND t.lane IS NOT NULL AND t.queue = one AND t.lane = head.lane
                        AND (t.losses >= 2) = whole
                        AND EXISTS (SELECT FROM unnest(lows, highs) b(low, high) WHERE t.priority BETWEEN b.low AND b.high)
                    ORDER BY -t.priority::integer, t.run_at, t.id
                    LIMIT CASE WHEN whole THEN 1 ELSE places END);
                ids := {schema}.pq_lock_in_order(wanted, 'blocked');
            ELSE
                ids := ARRAY(SELECT t.id FROM {schema}.pq_tasks t
                    WHERE t.status = 'blocked' AND t.lane IS NOT NULL AND t.queue = one AND t.lane = head.lane
                        AND (t.losses >= 2) = whole
                        AND EXISTS (SELECT FROM unnest(lows, highs) b(low, high) WHERE t.priority BETWEEN b.low AND b.high)
                    ORDER BY -t.priority::integer, t.run_at, t.id
                    LIMIT CASE WHEN whole THEN 1 ELSE places END FOR UPDATE OF t SKIP LOCKED);
                wanted := ids;
            END IF;
            IF ids <> wanted OR ids = '{{}}' THEN
                soonest := least(soonest, 0.05);  -- somebody holds a lock in it: he may cancel that task, or not
            END IF;
            IF ids = '{{}}' THEN
                whole := false;
                CONTINUE;
            END IF;
            found_ := found_ || ids;
            FOR part IN SELECT s.subject, s.every FROM (VALUES ('key:' || (head.limits ->> 'key'), NULL),
                ('task:' || head.name, CASE WHEN head.limits ->> 'rate' IS NOT NULL THEN 1 / greatest(nullif((head.limits ->> 'rate')::double precision, 'NaN'), 1e-9) END),
                ('queue:' || one, (limited -> one ->> 'every')::double precision)) s(subject, every)
                WHERE s.subject IS NOT NULL
            LOOP
                used := used || jsonb_build_object(part.subject,
                    coalesce((used ->> part.subject)::bigint, 0) + cardinality(ids));
                IF part.every IS NOT NULL THEN
                    PERFORM {schema}.pq_limit_spend(part.subject, part.every, cardinality(ids), moment);
                    soonest := least(soonest, part.every);
                END IF;
            END LOOP;
            IF cardinality(ids) >= places THEN
                soonest := least(soonest, 0.1);
            END IF;
        END LOOP;
    END LOOP;
    END LOOP;

    RETURN QUERY UPDATE {schema}.pq_tasks t
    SET status = 'running', worker_id = worker, fence = t.fence + 1, attempts = t.attempts + 1, alone = whole,
        started_at = clock_timestamp(), outcome = NULL, progress = NULL, progress_message = NULL
    WHERE t.id = ANY (found_)
    RETURNING t.id, t.name, t.queue, t.priority, t.fence, t.attempts, t.max_attempts, t.payload::text, t.headers::text,
        t.version, t.run_at, t.created_at, t.started_at, t.client_id, t.max_runtime_seconds, t.options::text, t.losses,
        t.snoozes, t.schedule_id, t.tick_at, t.on_lost,
        extract(epoch FROM clock_timestamp() - t.unroutable_since)::double precision, NULL::double precision;
    IF soonest IS NOT NULL OR whole THEN
        SELECT NULL, coalesce(soonest, 0) INTO id, next_in;
        RETURN NEXT;
    END IF;
END
$pq$;
REVOKE EXECUTE ON FUNCTION {schema}.pq_claim_limited(bigint, text[], integer[], integer[], integer, boolean) FROM PUBLIC;

-- Which notifications a worker hears: those of its own channel, beside those for all. NULL: a worker of before this revision,
-- which hears the common channel alone. bands: the priorities that it takes (NULL: all). refuses: what its code can't run,
-- name -> lowest version (NULL: nothing that is known).
ALTER TABLE {schema}.pq_workers
    ADD COLUMN IF NOT EXISTS wake_channel text,
    ADD COLUMN IF NOT EXISTS bands int4multirange,
    ADD COLUMN IF NOT EXISTS refuses jsonb;

-- Wake as many of the workers that sleep as there are tasks that wait: some that may run them, at random, those that renew
-- their lease in time first. Who is woken and can't take one passes it on (pass_on.sql). Returns how many were notified.
-- The notification says what waits: t(asks), l(imited ones), d(ue later, or for a worker that looks).
-- `sender`: a worker that knows by itself, or NULL.
CREATE OR REPLACE FUNCTION {schema}.pq_wake(ids bigint[], sender bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
-- Planned once in a session: to plan it anew each time costs more than to run it.
SET plan_cache_mode = force_generic_plan SET jit = off AS $pq$
DECLARE
    moment timestamptz := clock_timestamp();
    told   bigint := 0;
BEGIN
    IF NOT EXISTS (SELECT FROM {schema}.pq_workers w
        WHERE w.sleeping AND w.expires_at > moment AND w.id IS DISTINCT FROM sender)
    THEN
        RETURN 0;
    END IF;
    WITH sleeper AS MATERIALIZED (
        -- Late: it has missed the heartbeat that a third of its lease allows.
        SELECT w.wake_channel, w.queues, w.bands, w.refuses,
            w.heartbeat_at < moment - w.lease / 3 - interval '2 seconds' AS late
        FROM {schema}.pq_workers w
        WHERE w.sleeping AND w.expires_at > moment AND w.id IS DISTINCT FROM sender AND NOT w.draining
            AND NOT w.drain_requested
    ), need AS MATERIALIZED (
        -- Told apart by name where somebody refuses names. What a paused queue holds wakes nobody; of what has limits one
        -- worker is told, which passes it on when it is full.
        SELECT t.queue, t.priority::integer AS priority, k.kind, p.name, p.version,
            CASE k.kind WHEN 't' THEN count(*) ELSE 1 END AS tasks
        FROM {schema}.pq_tasks t CROSS JOIN LATERAL (SELECT CASE
                WHEN NOT t.due OR t.losses >= 2 THEN 'd'
                WHEN t.options ? 'limits' OR EXISTS (SELECT FROM {schema}.pq_queues q
                    WHERE q.name = t.queue AND (q.concurrency_limit IS NOT NULL OR q.rate_limit IS NOT NULL)) THEN 'l'
                ELSE 't' END) k(kind)
            LEFT JOIN LATERAL (SELECT t.name, t.version WHERE EXISTS (SELECT FROM sleeper s WHERE s.refuses IS NOT NULL)) p ON true
        WHERE t.id = ANY (ids) AND t.status IN ('pending', 'blocked')
            AND NOT EXISTS (SELECT FROM {schema}.pq_queues q
                WHERE q.name = t.queue AND (q.paused_at IS NOT NULL OR q.paused_until > moment))
        GROUP BY 1, 2, 3, 4, 5
    ), chosen AS MATERIALIZED (
        SELECT c.wake_channel, n.kind FROM need n CROSS JOIN LATERAL (
            SELECT s.wake_channel FROM sleeper s
            WHERE s.wake_channel IS NOT NULL AND n.queue = ANY (s.queues)
                AND (s.bands IS NULL OR s.bands @> n.priority)
                AND ((s.refuses ->> n.name)::integer <= n.version) IS NOT TRUE
            ORDER BY s.late, random()
            LIMIT n.tasks) c
    )
    SELECT count(pg_notify(x.channel, x.words)) INTO told FROM (
        SELECT c.wake_channel AS channel, string_agg(DISTINCT c.kind, '') AS words FROM chosen c GROUP BY 1
        UNION ALL
        SELECT DISTINCT {schema}.pq_channel('wake'), left(n.queue, 1000) FROM need n
        WHERE EXISTS (SELECT FROM sleeper s WHERE s.wake_channel IS NULL AND n.queue = ANY (s.queues))
    ) x;
    RETURN told;
END
$pq$;
REVOKE EXECUTE ON FUNCTION {schema}.pq_wake(bigint[], bigint) FROM PUBLIC;

-- As in the second revision, but that it wakes no more workers than are needed.
CREATE OR REPLACE FUNCTION {schema}.pq_enqueue(tasks jsonb, OUT id bigint, OUT duplicate boolean) RETURNS SETOF record
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $pq$
#variable_conflict use_column
DECLARE
    moment timestamptz := clock_timestamp();
    woken  boolean;
BEGIN
    -- What comes most often: one object that can't collide with anything, due now, with the options that are used most.
    -- In a short transaction every node of an expression is set up for its one use, so all checks are one path and one
    -- difference; what fails them for whatever reason is looked at again, and named, below.
    IF jsonb_typeof(tasks) = 'object'
        AND tasks @? '$ ? (@.name.type() == "string" && @.name != "" && @.args.type() == "array"
            && @.kwargs.type() == "object" && (!exists (@.queue) || (@.queue.type() == "string" && @.queue != ""))
            && (!exists (@.headers) || @.headers.type() == "object")
            && !(@.max_attempts < 1) && !(@.timeout <= 0))'
        AND tasks - ARRAY['name', 'args', 'kwargs', 'queue', 'priority', 'max_attempts', 'timeout', 'headers', 'version']
            = '{{}}'
        AND length(tasks ->> 'name') <= 255 AND (length(tasks ->> 'queue') <= 255) IS NOT FALSE
    THEN
        INSERT INTO {schema}.pq_tasks (
            name, payload, queue, priority, run_at, due, created_at, max_attempts, max_runtime_seconds, headers, version)
        VALUES (
            tasks ->> 'name', tasks - ARRAY['name', 'queue', 'priority', 'max_attempts', 'timeout', 'headers', 'version'],
            coalesce(tasks ->> 'queue', 'default'), coalesce(cast(tasks ->> 'priority' AS smallint), 50::smallint),
            moment, true, moment, coalesce(cast(tasks ->> 'max_attempts' AS integer), 1),
            cast(tasks ->> 'timeout' AS double precision), tasks -> 'headers',
            coalesce(cast(tasks ->> 'version' AS integer), 1))
        RETURNING id, EXISTS (SELECT FROM {schema}.pq_workers w
            WHERE w.sleeping AND w.expires_at > moment AND queue = ANY (w.queues))
        INTO id, woken;
        duplicate := false;
        RETURN NEXT;
    ELSIF jsonb_typeof(tasks) = 'object' AND NOT tasks ?| ARRAY['client_id', 'schedule_id', 'on_failure']
        AND {schema}.pq_enqueue_problem(tasks) IS NULL
    THEN
        INSERT INTO {schema}.pq_tasks (
            name, payload, queue, priority, run_at, due, created_at, client_id, client_id_unique, max_attempts,
            max_runtime_seconds, on_lost, on_failure, headers, version, schedule_id, tick_at, options)
        SELECT r.name, r.payload, r.queue, r.priority, r.run_at, r.due, r.created_at, r.client_id,
            r.client_id_unique, r.max_attempts, r.max_runtime_seconds, r.on_lost, r.on_failure, r.headers,
            r.version, r.schedule_id, r.tick_at, r.options
        FROM {schema}.pq_enqueue_rows(jsonb_build_array(tasks), moment) r
        RETURNING id, EXISTS (SELECT FROM {schema}.pq_workers w
            WHERE w.sleeping AND w.expires_at > moment AND queue = ANY (w.queues))
        INTO id, woken;
        duplicate := false;
        RETURN NEXT;
    ELSE
        RETURN QUERY SELECT e.id, e.duplicate FROM {schema}.pq_enqueue_array(
            CASE jsonb_typeof(tasks) WHEN 'array' THEN tasks ELSE jsonb_build_array(tasks) END, moment) e;
    END IF;
    IF woken THEN
        PERFORM {schema}.pq_wake(ARRAY[id], NULL);
    END IF;
END
$pq$;

-- As in the first revision, but that it wakes no more workers than are needed.
CREATE OR REPLACE FUNCTION {schema}.pq_enqueue_array(items jsonb, moment timestamptz, OUT id bigint, OUT duplicate boolean)
RETURNS SETOF record LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $pq$
#variable_conflict use_column
DECLARE
    problem    text;
    named      boolean;
    whole      boolean := false;
    failures   jsonb;
    deeper     jsonb;
    ids        bigint[];
    fresh      bigint[];
    stored     bigint[];
    places     integer[];
    missing    integer[];
    unsettled  integer[];
    duplicates integer[];
    place      integer;
    existing   bigint;
    sequence   regclass;
    rounds     integer := 0;
BEGIN
    -- `named`: something in it may collide.
    SELECT (array_agg(c.problem) FILTER (WHERE c.problem IS NOT NULL))[1],
        bool_or(c.e ->> 'client_id' IS NOT NULL OR c.e ->> 'schedule_id' IS NOT NULL),
        jsonb_agg(c.e -> 'on_failure') FILTER (WHERE jsonb_typeof(c.e -> 'on_failure') <> 'null')
    INTO problem, named, failures
    FROM (SELECT e, {schema}.pq_enqueue_problem(e) AS problem FROM jsonb_array_elements(items) e) c;
    -- What is to be enqueued after a failure must be fit for it now: later there is nobody to tell.
    WHILE problem IS NULL AND failures IS NOT NULL LOOP
        SELECT 'on_failure: ' || (array_agg(c.problem) FILTER (WHERE c.problem IS NOT NULL))[1],
            jsonb_agg(c.e -> 'on_failure') FILTER (WHERE jsonb_typeof(c.e -> 'on_failure') <> 'null')
        INTO problem, deeper
        FROM (SELECT e, {schema}.pq_enqueue_problem(e) AS problem FROM jsonb_array_elements(failures) e) c;
        IF problem IS NULL THEN
            -- Every value is worked out here as it would be then, times included: a count of rows would pass them over.
            PERFORM count(r) FROM {schema}.pq_enqueue_rows(failures, moment) r;
            failures := deeper;
        END IF;
    END LOOP;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION USING MESSAGE = 'pq_enqueue: ' || problem, ERRCODE = 'invalid_parameter_value';
    END IF;

    IF NOT named THEN
        -- Nothing can collide. The identity numbers the rows in the order in which they come.
        WITH inserted AS (
            INSERT INTO {schema}.pq_tasks (
                name, payload, queue, priority, run_at, due, created_at, client_id, client_id_unique, max_attempts,
                max_runtime_seconds, on_lost, on_failure, headers, version, schedule_id, tick_at, options)
            SELECT r.name, r.payload, r.queue, r.priority, r.run_at, r.due, r.created_at, r.client_id,
                r.client_id_unique, r.max_attempts, r.max_runtime_seconds, r.on_lost, r.on_failure, r.headers,
                r.version, r.schedule_id, r.tick_at, r.options
            FROM {schema}.pq_enqueue_rows(items, moment) r
            RETURNING id
        )
        SELECT array_agg(i.id) INTO ids FROM inserted i;
    ELSE
        sequence := pg_get_serial_sequence({tasks_text}, 'id');
        whole := items @? '$[*] ? (@.on_duplicate == "raise")';
        IF whole AND items @? '$[*] ? (@.on_duplicate == "replace")' THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = 'pq_enqueue: on_duplicate = raise and replace exclude each other in one array';
        END IF;
    END IF;

    -- Round after round until each has an id: a task that had the client_id may be gone when it is looked up.
    -- `unsettled` is NULL in the first round, when all are. Keys are taken in their own order, since two arrays
    -- that share keys in different orders would wait for each other.
    WHILE named LOOP
        WITH spec AS MATERIALIZED (
            SELECT nextval(sequence) AS id, r.* FROM {schema}.pq_enqueue_rows(items, moment) r
            WHERE unsettled IS NULL OR r.n = ANY (unsettled)
        ), inserted AS (
            INSERT INTO {schema}.pq_tasks (
                id, name, payload, queue, priority, run_at, due, created_at, client_id, client_id_unique,
                max_attempts, max_runtime_seconds, on_lost, on_failure, headers, version, schedule_id, tick_at,
                options)
            SELECT r.id, r.name, r.payload, r.queue, r.priority, r.run_at, r.due, r.created_at, r.client_id,
                r.client_id_unique, r.max_attempts, r.max_runtime_seconds, r.on_lost, r.on_failure, r.headers,
                r.version, r.schedule_id, r.tick_at, r.options
            FROM spec r ORDER BY r.client_id COLLATE "C" NULLS FIRST, r.n
            ON CONFLICT DO NOTHING
            RETURNING id
        )
        SELECT array_agg(s.n ORDER BY s.n), array_agg(i.id ORDER BY s.n),
            array_agg(s.n ORDER BY s.client_id COLLATE "C", s.n) FILTER (WHERE i.id IS NULL)
        INTO places, stored, missing
        FROM spec s LEFT JOIN inserted i ON i.id = s.id;
        IF unsettled IS NULL THEN
            ids := stored;
        ELSE
            FOR k IN 1 .. cardinality(places) LOOP
                ids[places[k]] := coalesce(stored[k], ids[places[k]]);
            END LOOP;
        END IF;
        fresh := fresh || array_remove(stored, NULL);

        unsettled := '{{}}';
        FOREACH place IN ARRAY coalesce(missing, '{{}}') LOOP
            existing := {schema}.pq_enqueue_existing(items -> (place - 1), moment);
            ids[place] := existing;
            IF existing IS NULL THEN
                unsettled := unsettled || place;
            ELSE
                duplicates := duplicates || place;
            END IF;
        END LOOP;
        EXIT WHEN unsettled = '{{}}';
        rounds := rounds + 1;
        IF rounds > 100 THEN
            RAISE EXCEPTION USING ERRCODE = 'serialization_failure',
                MESSAGE = 'pq_enqueue: the task with this client_id is not visible to this transaction';
        END IF;
    END LOOP;

    IF whole AND EXISTS (SELECT FROM unnest(duplicates) d(n) WHERE items -> (d.n - 1) ->> 'on_duplicate' = 'raise') THEN
        -- All or none. Nobody else has seen the new ones.
        DELETE FROM {schema}.pq_tasks t WHERE t.id = ANY (fresh);
        RETURN QUERY SELECT CASE WHEN d.n IS NOT NULL THEN u.id END, d.n IS NOT NULL
            FROM unnest(ids) WITH ORDINALITY AS u(id, n) LEFT JOIN unnest(duplicates) AS d(n) ON d.n = u.n ORDER BY u.n;
        RETURN;
    END IF;

    -- Tell workers that sleep. One that is awake looks by itself before it goes to sleep.
    IF EXISTS (SELECT FROM {schema}.pq_workers w WHERE w.sleeping AND w.expires_at > moment) THEN
        PERFORM {schema}.pq_wake(CASE WHEN named THEN fresh || ARRAY(SELECT ids[d.n] FROM unnest(duplicates) d(n)
            WHERE items -> (d.n - 1) ->> 'on_duplicate' = 'replace') ELSE ids END, NULL);
    END IF;

    RETURN QUERY SELECT u.id, d.n IS NOT NULL
        FROM unnest(ids) WITH ORDINALITY AS u(id, n) LEFT JOIN unnest(duplicates) AS d(n) ON d.n = u.n ORDER BY u.n;
END
$pq$;
