-- The $n client addresses with most transactions of their own, without internal requests.
SELECT
    coalesce(client_address, '-') AS client,
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
    coalesce(sum(milestones.release), 0.0) AS seconds
FROM records
WHERE NOT coalesce(internal, false)
GROUP BY 1
ORDER BY transactions DESC, client
LIMIT $n
