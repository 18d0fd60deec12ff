-- What others have running of a worker's queues: by worker, how many tasks, and what is known of their lease.
--
-- $1 bigint worker  $2 text[] its queues
-- Returns per worker: id, name (NULL: it has no lease), tasks, seconds until its lease ends, whether it has renewed it
-- since the asking worker began, seconds until it is a sixth of its lease late with the next renewal, seconds until
-- rescue.sql lets its tasks be taken, if it says nothing any more.
WITH me AS (
    SELECT w.id, w.started_at, greatest(w.continuous_since, pg_postmaster_start_time()) AS watching_since
    FROM {schema}.pq_workers w WHERE w.id = $1::bigint
), held AS MATERIALIZED (
    SELECT t.worker_id, count(*) AS tasks, max(t.started_at) AS started_at FROM {schema}.pq_tasks t
    WHERE t.status = 'running' AND t.queue = ANY ($2::text[]) AND t.worker_id <> $1::bigint
    GROUP BY t.worker_id
), found AS (
    SELECT h.worker_id, w.name, h.tasks, w.expires_at AS ends_at, w.heartbeat_at > me.started_at AS alive,
        w.heartbeat_at + w.lease / 2 AS late_at,
        CASE
            WHEN w.id IS NULL THEN h.started_at + interval '5 seconds'
            ELSE greatest(w.expires_at + interval '1 second', w.lease + least(me.watching_since,
                CASE WHEN w.expired_seen_at > greatest(w.expires_at, pg_postmaster_start_time()) THEN w.expired_seen_at END))
        END AS free_at
    FROM held h CROSS JOIN me LEFT JOIN {schema}.pq_workers w ON w.id = h.worker_id
)
SELECT f.worker_id, f.name, f.tasks, extract(epoch FROM f.ends_at - clock_timestamp())::double precision,
    coalesce(f.alive, false), extract(epoch FROM f.late_at - clock_timestamp())::double precision,
    extract(epoch FROM f.free_at - clock_timestamp())::double precision
FROM found f ORDER BY f.worker_id;
