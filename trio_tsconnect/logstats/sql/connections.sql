-- Client connections and transactions by protocol. Connections that the process opened for itself are internal, by the tag of their opener.
-- A connection is known by client_connection; an internal one, and one without this number, by its session.
WITH carried AS (
    SELECT
        CASE
            WHEN internal AND coalesce(tag, '') <> '' THEN concat('internal/', tag)
            WHEN internal THEN 'internal'
            ELSE coalesce(nullif(client_protocol, ''), '-')
        END AS protocol,
        run,
        CASE WHEN coalesce(internal, false) OR coalesce(client_connection, 0) = 0 THEN 'session' ELSE 'connection' END AS known_by,
        CASE
            WHEN coalesce(internal, false) OR coalesce(client_connection, 0) = 0 THEN coalesce(session, 0)
            ELSE client_connection
        END AS number
    FROM records
), connections AS (
    SELECT protocol, run, known_by, number, count(*) AS transactions
    FROM carried
    GROUP BY protocol, run, known_by, number
)
SELECT protocol, count(*) AS connections, sum(transactions) AS transactions
FROM connections
GROUP BY protocol
ORDER BY protocol
