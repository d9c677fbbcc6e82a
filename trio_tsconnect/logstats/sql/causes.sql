-- Transactions by how they ended: the party that caused it, and the cause.
SELECT coalesce(ended."by", '-') AS party, coalesce(ended.why, '-') AS why, count(*) AS transactions
FROM records
GROUP BY 1, 2
ORDER BY transactions DESC, party, why
