-- Transactions, errors and times of each $width seconds; moment is the start of this span, in Unix seconds.
WITH spans AS (
    SELECT
        floor(epoch(time) / $width) * $width AS moment,
        CASE
            WHEN status IS NULL OR status >= 500 THEN 1
            WHEN status < 400 AND ended.why NOT IN ('complete', 'responded') THEN 1
            ELSE 0
        END AS error,
        milestones.release AS seconds
    FROM records
    WHERE time IS NOT NULL
)
SELECT
    moment,
    count(*) AS transactions,
    sum(error) AS errors,
    quantile_disc(seconds, 0.5) AS p50,
    quantile_disc(seconds, 0.99) AS p99
FROM spans
GROUP BY moment
ORDER BY moment
