-- The $n slowest transactions by the time at the origin: from the request being sent to the response being there, or to the end.
SELECT
    run,
    coalesce(milestones.send_response, milestones.release) - milestones.send_request AS seconds,
    transaction,
    root,
    status,
    method,
    url,
    tag,
    id
FROM records
WHERE coalesce(milestones.send_response, milestones.release) >= milestones.send_request
ORDER BY seconds DESC, run, transaction
LIMIT $n
