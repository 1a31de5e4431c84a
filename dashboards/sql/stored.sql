-- How much room does each adapter take in the store, table by table?
-- Ask it when the store grows, or to see which time of keeping (clickhouse.keep) is worth changing.
WITH
sizes AS (
    SELECT table, sum(bytes_on_disk) AS n_bytes, sum(p.rows) AS n_rows
    FROM system.parts AS p
    WHERE database = currentDatabase() AND active AND table NOT IN ('rolled_up', 'schema_begun', 'schema_version')
    GROUP BY table HAVING n_rows > 0
),
-- Of tables that name adapters, each has its rows' share of the bytes.
of_adapters AS (
    SELECT 'comparisons' AS table, cluster, adapter, count() AS n FROM comparisons GROUP BY cluster, adapter
    UNION ALL SELECT 'rounds', cluster, adapter, count() FROM rounds GROUP BY cluster, adapter
    UNION ALL SELECT 'traffic_scores', cluster, adapter, count() FROM traffic_scores GROUP BY cluster, adapter
    UNION ALL SELECT 'embeddings', cluster, adapter, count() FROM embeddings GROUP BY cluster, adapter
    UNION ALL SELECT 'interactions', cluster, adapter, count() FROM interactions GROUP BY cluster, adapter
    UNION ALL SELECT 'request_counts', cluster, adapter, count() FROM request_counts GROUP BY cluster, adapter
),
whole AS (SELECT table, sum(a.n) AS n FROM of_adapters AS a GROUP BY table)
SELECT
    o.cluster AS cluster, o.adapter AS adapter, s.table AS table, if(w.n > 0, s.n_bytes * o.n / w.n, toFloat64(s.n_bytes)) AS bytes_stored,
    if(w.n > 0, o.n, s.n_rows) AS rows_stored
FROM sizes AS s LEFT JOIN of_adapters AS o ON s.table = o.table LEFT JOIN whole AS w ON s.table = w.table
ORDER BY bytes_stored DESC
