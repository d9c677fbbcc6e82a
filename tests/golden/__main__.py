"""``python -m tests.golden > docs/traffic_server.md`` writes the table anew."""

from ._differences import page

print(page(), end="")
