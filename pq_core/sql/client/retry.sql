-- Put finished tasks that match back, due now, as if never tried; pq_attempts keeps what happened.
-- A task whose client_id was meanwhile given to another unfinished one stays as it is; of several finished ones with
-- one client_id the newest goes back. One row per task: its id, and the id of the task that has its client_id, if any.
WITH input AS (SELECT cast(cast({parameters} AS text) AS jsonb) AS p), chosen AS MATERIALIZED (
    SELECT t.id, t.client_id, t.client_id_unique FROM {schema}.pq_tasks t
    WHERE t.status IN ('completed', 'failed', 'cancelled') AND {conditions}
    ORDER BY t.id
    FOR UPDATE OF t
), judged AS MATERIALIZED (
    SELECT c.id, c.client_id, coalesce(
        (SELECT o.id FROM {schema}.pq_tasks o
        WHERE c.client_id_unique = 'unfinished' AND o.client_id = c.client_id AND o.id <> c.id
            AND (o.client_id_unique = 'retained' OR o.status IN ('pending', 'running', 'blocked')) LIMIT 1),
        (SELECT max(o.id) FROM chosen o
        WHERE c.client_id_unique = 'unfinished' AND o.client_id = c.client_id AND o.id > c.id)
    ) AS other FROM chosen c
), revived AS (
    UPDATE {schema}.pq_tasks t SET
        status = 'pending', run_at = clock_timestamp(), due = true, attempts = 0, losses = 0, lone_losses = 0,
        snoozes = 0, uncounted_starts = NULL, uncounted_in_a_row = NULL, alone = false, worker_id = NULL, started_at = NULL, completed_at = NULL,
        cancel_requested_at = NULL, cancel_reason = NULL, unroutable_since = NULL, outcome = NULL, error = NULL,
        error_fingerprint = NULL, result = NULL, ledger = NULL, output = NULL, progress = NULL,
        progress_message = NULL
    FROM judged j WHERE j.id = t.id AND j.other IS NULL AND t.status IN ('completed', 'failed', 'cancelled')
    RETURNING t.id
), woken AS MATERIALIZED (
    SELECT {schema}.pq_wake(ARRAY(SELECT r.id FROM revived r), NULL)
)
SELECT cast(json_build_array(j.id, j.client_id, j.other) AS text) FROM judged j
WHERE (j.other IS NOT NULL OR j.id IN (SELECT id FROM revived)) AND (SELECT count(*) FROM woken) >= 0
