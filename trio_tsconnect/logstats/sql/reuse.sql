-- Connections to origins, and how often they were used again.
WITH used AS (
    SELECT
        coalesce(nullif(split_part(origin_url, '/', 3), ''), '-') AS origin,
        run,
        origin_connection,
        count(*) AS transactions,
        sum(CASE WHEN origin_reused THEN 1 ELSE 0 END) AS reused
    FROM records
    WHERE origin_connection IS NOT NULL
    GROUP BY 1, 2, 3
)
SELECT origin, count(*) AS connections, sum(transactions) AS transactions, sum(reused) AS reused
FROM used
GROUP BY origin
ORDER BY transactions DESC, origin
