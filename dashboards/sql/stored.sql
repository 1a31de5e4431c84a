-- How much room does each adapter take in the store, table by table?
-- Ask it when the store grows, or to see which time of keeping (clickhouse.keep) is worth changing.
WITH
sizes AS (
    SELECT table, sum(bytes_on_disk) AS n_bytes, sum(p.rows) AS n_rows
    FROM system.parts AS p
    WHERE database = currentDatabase() AND active AND table NOT IN ('rolled_up', 'schema_begun', 'schema_version')
    GROUP BY table HAVING n_rows > 0
),
-- Of tables that name adapters, each has its rows' share of the bytes. By a hash of both: two keys of text take twice as long.
of_adapters AS (
    SELECT 'comparisons' AS table, any(r.cluster) AS cluster, any(r.adapter) AS adapter, count() AS n FROM comparisons AS r GROUP BY cityHash64(r.cluster, r.adapter)
    UNION ALL SELECT 'rounds', any(r.cluster), any(r.adapter), count() FROM rounds AS r GROUP BY cityHash64(r.cluster, r.adapter)
    UNION ALL SELECT 'traffic_scores', any(r.cluster), any(r.adapter), count() FROM traffic_scores AS r GROUP BY cityHash64(r.cluster, r.adapter)
    UNION ALL SELECT 'embeddings', any(r.cluster), any(r.adapter), count() FROM embeddings AS r GROUP BY cityHash64(r.cluster, r.adapter)
    UNION ALL SELECT 'interactions', any(r.cluster), any(r.adapter), count() FROM interactions AS r GROUP BY cityHash64(r.cluster, r.adapter)
    UNION ALL SELECT 'request_counts', any(r.cluster), any(r.adapter), count() FROM request_counts AS r GROUP BY cityHash64(r.cluster, r.adapter)
)
SELECT
    o.cluster AS cluster, o.adapter AS adapter, s.table AS table, if(o.n > 0, s.n_bytes * o.n / s.n_rows, toFloat64(s.n_bytes)) AS bytes_stored,
    if(o.n > 0, o.n, s.n_rows) AS rows_stored
FROM sizes AS s LEFT JOIN of_adapters AS o ON s.table = o.table
ORDER BY bytes_stored DESC
