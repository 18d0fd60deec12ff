-- Tasks of every finished state, the one that ended last first: each state gives its own, so that the index is read in its
-- order and no further than needed. With a worker in the bounds, pq_tasks_ended alone judges it, and no row of others is read.
SELECT t.*, json_build_array(t.completed_at, t.id) AS place FROM (
    (SELECT t.* FROM {schema}.pq_tasks t WHERE t.status = 'completed' AND {bounds}
    ORDER BY t.completed_at DESC, t.id DESC LIMIT {budget})
    UNION ALL
    (SELECT t.* FROM {schema}.pq_tasks t WHERE t.status = 'failed' AND {bounds}
    ORDER BY t.completed_at DESC, t.id DESC LIMIT {budget})
    UNION ALL
    (SELECT t.* FROM {schema}.pq_tasks t WHERE t.status = 'cancelled' AND {bounds}
    ORDER BY t.completed_at DESC, t.id DESC LIMIT {budget})
) t ORDER BY t.completed_at DESC, t.id DESC LIMIT {budget}
