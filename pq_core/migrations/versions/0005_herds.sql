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
        extract(epoch FROM coalesce(q.rate_period, interval '1 second')) / q.rate_limit))
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
                    1 / (head.limits ->> 'rate')::double precision),
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
                ('task:' || head.name, 1 / (head.limits ->> 'rate')::double precision),
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
