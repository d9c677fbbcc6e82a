-- Transactions by tag and by class of the status that was sent.
SELECT
    coalesce(nullif(tag, ''), '-') AS tag,
    CASE WHEN coalesce(status, 0) = 0 THEN 'none' ELSE concat(CAST(CAST(floor(status / 100) AS INTEGER) AS VARCHAR), 'xx') END AS class,
    count(*) AS transactions
FROM records
GROUP BY 1, 2
ORDER BY 1, 2
