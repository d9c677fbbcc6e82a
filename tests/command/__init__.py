"""The `tsconnect` command, mostly as a process of its own, which is the only way to see its signals and exit statuses."""
