-- Why a task has not ended yet: what stands in its way, and which workers could take it.
WITH input AS (SELECT cast(cast(cast({parameters} AS text) AS jsonb) AS bigint) AS id), alive AS (
    SELECT w.queues, w.bands, w.refuses FROM {schema}.pq_workers w
    WHERE w.expires_at > clock_timestamp() AND NOT w.draining AND NOT w.drain_requested
)
SELECT cast(json_build_object('name', t.name, 'version', t.version, 'queue', t.queue, 'status', t.status,
    'due_in', CASE WHEN isfinite(t.run_at) THEN extract(epoch FROM t.run_at - clock_timestamp()) END,
    'paused', EXISTS (SELECT FROM {schema}.pq_queues q
        WHERE q.name = t.queue AND (q.paused_at IS NOT NULL OR q.paused_until > clock_timestamp())),
    'workers', (SELECT count(*) FROM alive),
    'serving', (SELECT count(*) FROM alive w WHERE t.queue = ANY (w.queues)),
    'of_priority', (SELECT count(*) FROM alive w WHERE t.queue = ANY (w.queues)
        AND (w.bands IS NULL OR w.bands @> cast(t.priority AS integer))),
    'knowing', (SELECT count(*) FROM alive w WHERE t.queue = ANY (w.queues)
        AND (w.bands IS NULL OR w.bands @> cast(t.priority AS integer))
        AND (cast(w.refuses ->> t.name AS integer) <= t.version) IS NOT TRUE)) AS text)
FROM {schema}.pq_tasks t WHERE t.id = (SELECT id FROM input)
