-- Declare schedules: add those that are not there, change those that are. One row per item: its place in the array,
-- its id, what was done, and the id of the schedule that has its client_id, if that kept it out.
-- Invariants: what an operator did stays (a pause, unless `active` says otherwise), and a rhythm that has not changed
-- keeps its next tick. Declared by code (`origin` = 'code'), an item changes a schedule only that the same application's
-- code has declared, and only if it is not one that the present definition took the place of; `force` lifts the latter.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), item AS MATERIALIZED (
    SELECT e.n, r.*, clock_timestamp() AS moment
    FROM input, jsonb_array_elements(p -> 'items') WITH ORDINALITY AS e(value, n),
        LATERAL jsonb_to_record(e.value) AS r(
            name text, key text, client_id text, payload jsonb, priority smallint, run_every double precision, cron text,
            timezone text, start_at timestamptz, end_at timestamptz, jitter double precision, catch_up text,
            catch_up_limit integer, max_concurrent integer, active boolean, max_runtime_seconds double precision,
            queue text, version integer, max_attempts integer, headers jsonb, options jsonb, definition text,
            ticks timestamptz[])
), known AS MATERIALIZED (
    SELECT i.*, s.id, s.app AS old_app, s.declared_by AS old_origin, s.definition AS old_definition, s.removed_at,
        -- The first tick to come: of those that the client worked out by its own clock, the first by ours.
        CASE WHEN i.run_every IS NULL OR i.start_at IS NOT NULL
            THEN (SELECT min(t) FROM unnest(i.ticks) t WHERE t > i.moment)
            WHEN s.id IS NULL OR s.removed_at IS NOT NULL THEN i.moment
            ELSE i.moment + i.run_every * interval '1 second' END AS first_run,
        s.id IS NULL OR s.removed_at IS NOT NULL OR (s.next_run IS NULL AND s.ended_at IS NULL)
            OR s.error IS NOT NULL OR (coalesce(i.active, false) AND NOT s.active)
            OR (s.ended_at IS NOT NULL AND s.end_at IS DISTINCT FROM i.end_at)
            OR (s.run_every, s.cron, CASE WHEN s.cron IS NOT NULL THEN s.timezone END, s.start_at) IS DISTINCT FROM
                (i.run_every * interval '1 second', i.cron, CASE WHEN i.cron IS NOT NULL THEN i.timezone END, i.start_at)
            AS afresh,
        (SELECT o.id FROM {schema}.pq_periodic o WHERE o.client_id = i.client_id AND o.id IS DISTINCT FROM s.id) AS other
    FROM item i LEFT JOIN {schema}.pq_periodic s ON s.name = i.name AND s.key = i.key
), put AS (
    INSERT INTO {schema}.pq_periodic AS s (name, key, client_id, payload, priority, run_every, cron, timezone, next_run,
        start_at, end_at, jitter, catch_up, catch_up_limit, max_concurrent, active, max_runtime_seconds, queue, version,
        max_attempts, app, declared_by, definition, headers, options)
    SELECT k.name, k.key, k.client_id, k.payload, k.priority, k.run_every * interval '1 second', k.cron, k.timezone,
        k.first_run, k.start_at, k.end_at, k.jitter * interval '1 second', k.catch_up, k.catch_up_limit,
        k.max_concurrent, coalesce(k.active, true), k.max_runtime_seconds, k.queue, k.version, k.max_attempts,
        p ->> 'app', p ->> 'origin', k.definition, k.headers, k.options
    FROM known k, input WHERE k.other IS NULL
    -- In one order, so that two who declare the same ones don't wait for each other.
    ORDER BY k.name COLLATE "C", k.key COLLATE "C"
    ON CONFLICT (name, key) DO UPDATE SET
        client_id = coalesce(EXCLUDED.client_id, s.client_id),
        payload = EXCLUDED.payload,
        priority = EXCLUDED.priority,
        run_every = EXCLUDED.run_every,
        cron = EXCLUDED.cron,
        timezone = EXCLUDED.timezone,
        next_run = CASE WHEN (SELECT k.afresh FROM known k WHERE k.name = s.name AND k.key = s.key)
            THEN EXCLUDED.next_run ELSE s.next_run END,
        start_at = EXCLUDED.start_at,
        end_at = EXCLUDED.end_at,
        jitter = EXCLUDED.jitter,
        catch_up = EXCLUDED.catch_up,
        catch_up_limit = EXCLUDED.catch_up_limit,
        max_concurrent = EXCLUDED.max_concurrent,
        active = coalesce((SELECT k.active FROM known k WHERE k.name = s.name AND k.key = s.key), s.active
            OR s.removed_at IS NOT NULL OR (s.ended_at IS NOT NULL
                AND (SELECT k.afresh FROM known k WHERE k.name = s.name AND k.key = s.key))),
        max_runtime_seconds = EXCLUDED.max_runtime_seconds,
        queue = EXCLUDED.queue,
        version = EXCLUDED.version,
        max_attempts = EXCLUDED.max_attempts,
        app = EXCLUDED.app,
        declared_by = EXCLUDED.declared_by,
        definition = EXCLUDED.definition,
        superseded = CASE WHEN s.definition IS DISTINCT FROM EXCLUDED.definition THEN
            (array_remove(array_prepend(s.definition, s.superseded), EXCLUDED.definition))[1:50]
            ELSE s.superseded END,
        headers = EXCLUDED.headers,
        options = EXCLUDED.options,
        ended_at = CASE WHEN (SELECT k.afresh FROM known k WHERE k.name = s.name AND k.key = s.key)
            THEN NULL ELSE s.ended_at END,
        removed_at = NULL,
        error = NULL,
        updated_at = clock_timestamp()
    WHERE EXCLUDED.declared_by <> 'code' OR (s.app = EXCLUDED.app AND s.declared_by = 'code'
        AND (s.definition IS DISTINCT FROM EXCLUDED.definition
            OR (s.removed_at IS NOT NULL AND (SELECT cast(p -> 'force' AS boolean) FROM input)))
        AND (EXCLUDED.definition <> ALL (s.superseded) OR (SELECT cast(p -> 'force' AS boolean) FROM input)))
    RETURNING s.id, s.name, s.key, s.xmax = 0 AS added
), told AS MATERIALIZED (
    SELECT pg_notify({schema}.pq_channel('wake'), '!tick') FROM (SELECT count(*) AS n FROM put) c WHERE c.n > 0
)
SELECT cast(json_build_array(k.n - 1, coalesce(t.id, k.id), CASE
        WHEN t.added OR (t.id IS NOT NULL AND k.removed_at IS NOT NULL) THEN 'added'
        WHEN t.id IS NOT NULL AND k.old_definition IS NOT DISTINCT FROM k.definition THEN 'unchanged'
        WHEN t.id IS NOT NULL THEN 'changed'
        WHEN k.other IS NOT NULL THEN 'taken'
        -- Somebody has declared it since this statement began: another process of the same application.
        WHEN k.id IS NULL THEN 'unchanged'
        WHEN k.old_app IS DISTINCT FROM p ->> 'app' OR k.old_origin IS DISTINCT FROM 'code' THEN 'foreign'
        WHEN k.old_definition = k.definition AND k.removed_at IS NULL THEN 'unchanged'
        ELSE 'older'
    END, k.other) AS text)
FROM input, known k LEFT JOIN put t ON t.name = k.name AND t.key = k.key
WHERE (SELECT count(*) FROM told) >= 0
ORDER BY k.n
