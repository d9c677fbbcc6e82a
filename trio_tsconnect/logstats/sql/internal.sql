-- Internal requests by the plugin that made them; - if it was none.
SELECT coalesce(nullif(split_part(opened_by, '.', 1), ''), '-') AS plugin, count(*) AS requests
FROM records
WHERE internal
GROUP BY 1
ORDER BY requests DESC, plugin
