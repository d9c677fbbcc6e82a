-- Transactions by $by: number, errors, bytes of bodies, and times in seconds from the start to the end.
-- An error has no status, a status of 500 or more, or a response that was not sent completely.
SELECT
    $key AS name,
    count(*) AS transactions,
    sum(
        CASE
            WHEN status IS NULL OR status >= 500 THEN 1
            WHEN status < 400 AND ended.why NOT IN ('complete', 'responded') THEN 1
            ELSE 0
        END
    ) AS errors,
    sum(coalesce(request_bytes, 0)) AS request_bytes,
    sum(coalesce(response_bytes, 0)) AS response_bytes,
    quantile_disc(milestones.release, 0.5) AS p50,
    quantile_disc(milestones.release, 0.9) AS p90,
    quantile_disc(milestones.release, 0.99) AS p99,
    max(milestones.release) AS longest
FROM records
GROUP BY $key
ORDER BY transactions DESC, name
