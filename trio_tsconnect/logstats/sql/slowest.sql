-- The $n slowest transactions by the time from the start to the end.
SELECT run, milestones.release AS seconds, transaction, root, status, method, url, tag, id
FROM records
WHERE milestones.release IS NOT NULL
ORDER BY seconds DESC, run, transaction
LIMIT $n
