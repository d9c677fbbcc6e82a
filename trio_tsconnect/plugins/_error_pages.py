"""ErrorPages: send pages of one's own in place of error responses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import attrs

from trio_tsconnect import ConfigError, Plugin, Transaction
from trio_tsconnect._util import public
from trio_tsconnect.plugins._options import as_tuple, one_of, refuse

_MAKERS = ("proxy", "plugin", "origin")
_OF_THE_OLD_BODY = tuple(
    b"content-type content-length content-encoding content-language content-range etag last-modified accept-ranges transfer-encoding".split()
)


def _pages(_instance: Any, attribute: Any, value: Any) -> None:
    if not isinstance(value, Mapping) or not value:
        raise refuse(attribute.name, "a table of statuses and files", value)
    for key, file in value.items():
        if not (str(key) in ("4xx", "5xx") or (str(key).isdecimal() and 400 <= int(key) <= 599)):
            raise refuse(f"{attribute.name}.{key}", 'a status of 400..599, "4xx" or "5xx"', key)
        if not isinstance(file, str):
            raise refuse(f"{attribute.name}.{key}", "the path of a file", file)


def _makers(_instance: Any, attribute: Any, value: Any) -> None:
    for maker in value:
        one_of(*_MAKERS)(None, attribute, maker)


@public("trio_tsconnect.plugins")
class ErrorPages(Plugin):
    """Replaces the body of error responses by a page from a file. The status and the other fields stay.

    `$status`, `$reason` and `$transaction` in a page are replaced by the status, its reason phrase and the number of the transaction in the
    log. Source: nginx's error_page.
    """

    @attrs.frozen(kw_only=True)
    class Options:
        """The options of `ErrorPages`."""

        pages: Mapping[str, str] = attrs.field(validator=_pages)
        """The files, by status: `"404"`, or `"5xx"` for every status of a class that has no file of its own. UTF-8; read once, when the plugin is made."""
        of: tuple[str, ...] = attrs.field(default=("proxy",), converter=as_tuple, validator=_makers)
        """Whose error responses are replaced: `proxy` (502 for a dead origin, 404 without a rule, 403 of an access rule), `plugin`, `origin`."""
        content_type: str = "text/html; charset=utf-8"
        """The Content-Type of the pages."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._pages = {str(key): _read(f"pages.{key}", file) for key, file in options.pages.items()}

    async def send_response(self, txn: Transaction) -> None:
        """Replace the response if there is a page for its status."""
        status = txn.response.status
        page = self._pages.get(str(status)) or self._pages.get(f"{status // 100}xx")
        if page is None or txn.response_source not in self.options.of:
            return
        headers = txn.response.headers.copy()
        headers.remove(_OF_THE_OLD_BODY)
        headers["Content-Type"] = self.options.content_type
        body = page.safe_substitute(status=status, reason=txn.response.reason, transaction=txn.number)
        txn.respond(status, body.encode(), headers=headers)


def _read(key: str, file: str) -> Template:
    try:
        return Template(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ConfigError(f"cannot read {file}: {exc}", key=key) from None
