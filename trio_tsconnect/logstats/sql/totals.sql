-- All transactions: number, roots, internal requests, first and last time.
SELECT
    count(*) AS transactions,
    sum(CASE WHEN parent IS NULL THEN 1 ELSE 0 END) AS roots,
    sum(CASE WHEN internal THEN 1 ELSE 0 END) AS internal,
    min(time) AS first,
    max(time) AS last
FROM records
