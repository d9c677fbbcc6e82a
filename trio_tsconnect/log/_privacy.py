"""What a log may not show. Invariant: a record is never changed; a log that hides something writes a copy."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import attrs

from trio_tsconnect.log._record import LogRecord

REDACTED = "[redacted]"
"""What stands for a value that is not shown."""

_FIELDS = {"host": "host", "user-agent": "user_agent", "referer": "referer"}
_WITH_URLS = ("referer", "location", "content-location")


@attrs.frozen(kw_only=True)
class Privacy:
    """What is left out of the records of one log."""

    request_headers: frozenset[str] = frozenset()
    """Names of the request fields that the log shows, in lower case."""
    response_headers: frozenset[str] = frozenset()
    """Names of the response fields that the log shows, in lower case."""
    redact: frozenset[str] = frozenset()
    """Names of the fields whose values are replaced by "[redacted]", in lower case."""
    query: bool = True
    """Whether URLs keep their query strings."""

    def applied(self, record: LogRecord) -> LogRecord:
        """Return the record, or a copy without what is not shown."""
        plain = record.request_headers is None and record.response_headers is None
        if plain and self.query and not self.hides_fields:
            return record
        shown = copy.copy(record)
        shown.request_headers = self._selected(record.request_headers, self.request_headers)
        shown.response_headers = self._selected(record.response_headers, self.response_headers)
        for name, attribute in _FIELDS.items():
            if name in self.redact and getattr(shown, attribute) is not None:
                setattr(shown, attribute, REDACTED)
        if not self.query:
            for attribute in ("url", "origin_url", "referer"):
                setattr(shown, attribute, without_query(getattr(shown, attribute)))
        return shown

    @property
    def hides_fields(self) -> bool:
        """Whether a field that every record has is redacted."""
        return not self.redact.isdisjoint(_FIELDS)

    def _selected(self, heads: Mapping[str, str] | None, names: frozenset[str]) -> dict[str, str] | None:
        if heads is None or not names:
            return None
        return {name: self._shown(name, value) for name, value in heads.items() if name in names}

    def _shown(self, name: str, value: str) -> str:
        if name in self.redact:
            return REDACTED
        return value if self.query or name not in _WITH_URLS else without_query(value) or ""


def without_query(url: str | None) -> str | None:
    """Return a URL without its query string and what follows it."""
    return url.partition("?")[0] if isinstance(url, str) else url
