"""ErrorPages: send pages of one's own in place of error responses."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import attrs

from trio_tsconnect import ConfigError, InvalidState, Plugin, Transaction
from trio_tsconnect._util import public
from trio_tsconnect.message import reason_phrase
from trio_tsconnect.plugins._json import OF_THE_BYTES
from trio_tsconnect.plugins._options import as_tuple, one_of, refuse

_MAKERS = ("proxy", "plugin", "origin")
_OF_THE_OLD_BODY = (  # RFC 9110 §8, RFC 9530, RFC 6266
    *OF_THE_BYTES,
    *b"content-type content-length content-encoding content-language content-location content-disposition content-range".split(),
    *b"last-modified transfer-encoding".split(),
)
_MARKUP = re.compile("html|xml", re.IGNORECASE)


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
    """Replaces the body of error responses by a page from a file. The status stays, and each field that does not describe the old body.

    `$status`, `$reason` and `$transaction` in a page are replaced by the status, its standard reason phrase (not the one of the origin) and
    the number of the transaction in the log. A response that another plugin has made in `send_response` is not replaced. Source: nginx's
    error_page.
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
        self._markup = _MARKUP.search(options.content_type) is not None
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
        reason = html.escape(reason_phrase(status)) if self._markup else reason_phrase(status)
        body = page.safe_substitute(status=status, reason=reason, transaction=txn.number)
        try:
            txn.respond(status, body.encode(), headers=headers)
        except InvalidState:  # another plugin has made this response in send_response: it stays. One that was made before is replaced
            if txn.replaced_by is None:
                raise


def _read(key: str, file: str) -> Template:
    try:
        return Template(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ConfigError(f"cannot read {file}: {exc}", key=key) from None
