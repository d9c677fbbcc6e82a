-- HTTP/2 client connections by their number of streams, in steps of powers of two: 1, 2-3, 4-7, ...
WITH streams AS (
    SELECT
        run,
        coalesce(nullif(client_connection, 0), nullif(id, 0), 0) AS connection,
        count(DISTINCT nullif(stream, 0)) + sum(CASE WHEN coalesce(stream, 0) = 0 THEN 1 ELSE 0 END) AS streams
    FROM records
    WHERE tag = 'h2' AND parent IS NULL
    GROUP BY run, coalesce(nullif(client_connection, 0), nullif(id, 0), 0)
), steps AS (
    SELECT CAST(floor(log(2, streams)) AS INTEGER) AS step
    FROM streams
)
SELECT CAST(power(2, step) AS INTEGER) AS low, CAST(power(2, step + 1) - 1 AS INTEGER) AS high, count(*) AS connections
FROM steps
GROUP BY step
ORDER BY step
