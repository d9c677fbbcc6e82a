-- HTTP/2 streams of each client connection. A stream is a root transaction with the tag h2; its children are no streams of the client.
SELECT
    run,
    coalesce(nullif(client_connection, 0), nullif(id, 0), 0) AS connection,
    count(DISTINCT nullif(stream, 0)) + sum(CASE WHEN coalesce(stream, 0) = 0 THEN 1 ELSE 0 END) AS streams
FROM records
WHERE tag = 'h2' AND parent IS NULL
GROUP BY run, coalesce(nullif(client_connection, 0), nullif(id, 0), 0)
ORDER BY run, connection
