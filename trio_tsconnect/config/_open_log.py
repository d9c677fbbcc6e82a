"""Open the logs of a configuration. Invariant: if one of them cannot be opened, none stays open."""

from __future__ import annotations

from collections.abc import Sequence

from trio_tsconnect._util import public
from trio_tsconnect.config._log import LogConfig
from trio_tsconnect.log import Log, SeveralLogs, open_line_log, selection


@public("trio_tsconnect.config")
def open_log(configs: Sequence[LogConfig]) -> Log:
    """Return the log that one or more configurations describe. Raises `OSError` if a file or a command cannot be opened."""
    logs: list[Log] = []
    try:
        for config in configs:
            logs.append(_open(config))
    except OSError:
        for log in logs:
            log.close()
        raise
    return logs[0] if len(logs) == 1 else SeveralLogs(logs)


def _open(config: LogConfig) -> Log:
    return open_line_log(
        config.path,
        form=config.make_format(),
        wants=selection(config.filter, config.sample),
        rotation=None if config.rotate is None else config.rotate.rotation(),
        flush_interval=config.flush_interval,
        max_pending=config.max_pending,
    )
