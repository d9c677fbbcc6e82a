"""A second opinion on every byte: HTTP/1.1 by the grammar of RFC 9110 and 9112, and nothing that is merely tolerated.

It shares no code with the proxy. What a proxy writes has to pass it; what only a kind reader would take does not.
"""

from __future__ import annotations

import re
from typing import Literal

import attrs

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(%b) ([\x21-\x7e]+) HTTP/1\.1" % _TOKEN)
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) ([\t\x20-\x7e\x80-\xff]+)")
_FIELD_LINE = re.compile(rb"(%b): ?((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)" % _TOKEN)
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+;=]+)(?::[0-9]{0,5})?")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")
_NEVER_IN_TRAILERS = frozenset(
    {b"content-length", b"transfer-encoding", b"host", b"trailer", b"connection", b"set-cookie", b"authorization"}
)
_OF_ONE_HOP = frozenset({b"keep-alive", b"proxy-connection", b"http2-settings"})
_CONNECTION = frozenset({b"close", b"keep-alive", b"upgrade", b"te", b"upgrade, te"})

Fields = tuple[tuple[bytes, bytes], ...]


class Violation(AssertionError):
    """Bytes that nobody may send."""


@attrs.frozen(kw_only=True)
class Message:
    """One message, and the bytes that it was."""

    raw: bytes
    """All of it, as it stood on the wire."""
    first: tuple[bytes, ...]
    """Method and target, or status and reason."""
    fields: Fields
    """Names in lower case, values as written."""
    content: bytes = b""
    """The body without its framing."""
    trailers: Fields = ()
    """The fields after a chunked body."""
    by_close: bool = False
    """Whether only the end of the connection ended it."""

    @property
    def status(self) -> int:
        return int(self.first[0])

    @property
    def head(self) -> bytes:
        return self.raw[: self.raw.index(b"\r\n\r\n") + 4]

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]

    def get(self, name: bytes) -> bytes | None:
        values = self.all(name)
        return values[0] if values else None


def parse_request(data: bytes) -> Message | None:
    """The request at the beginning of `data`; None when there is not all of it."""
    return _parse(data, "request", b"", ended=False, may_close=False)


def parse_response(data: bytes, method: bytes, *, ended: bool = False, may_close: bool = False) -> Message | None:
    """The response to `method` at the beginning of `data`. `may_close`: its end may be that of the connection, which `ended` says has come."""
    return _parse(data, "response", method, ended=ended, may_close=may_close)


def _parse(data: bytes, kind: Literal["request", "response"], method: bytes, *, ended: bool, may_close: bool) -> Message | None:
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if re.search(rb"(?<!\r)\n|\r(?!\n|\Z)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", data):
            raise Violation(f"a line end or a control character out of place: {data[:200]!r}")
        return None
    first, *lines = data[:end].split(b"\r\n")
    line = (_REQUEST_LINE if kind == "request" else _STATUS_LINE).fullmatch(first)
    if line is None:
        raise Violation(f"the first line {first[:100]!r}")
    fields = _fields(lines)
    names = [name for name, _ in fields]
    _check_framing_fields(names, dict(fields))
    if kind == "request":
        _check_request(line[1], line[2], fields)
        silent = False
    else:
        silent = _check_response(method, int(line[1]), names)
    body = _Body(data, end + 4)
    by_close = False
    if silent:
        pass
    elif b"transfer-encoding" in names:
        body.chunked()
    elif b"content-length" in names:
        body.exactly(int(dict(fields)[b"content-length"]))
    elif kind == "response":
        if not may_close:
            raise Violation("a response that only the end of the connection ends")
        by_close = True
        body.rest(ended=ended)
    if not body.complete:
        return None
    return Message(
        raw=data[: body.at], first=(line[1], line[2]), fields=fields, content=bytes(body.content), trailers=body.trailers, by_close=by_close
    )


def _fields(lines: list[bytes]) -> Fields:
    found = []
    for line in lines:
        match = _FIELD_LINE.fullmatch(line)
        if match is None:
            raise Violation(f"the field line {line[:100]!r}")
        found.append((match[1].lower(), match[2]))
    return tuple(found)


def _check_framing_fields(names: list[bytes], values: dict[bytes, bytes]) -> None:
    for name in (b"content-length", b"transfer-encoding"):
        if names.count(name) > 1:
            raise Violation(f"{name!r} twice")
    if b"content-length" in names and b"transfer-encoding" in names:
        raise Violation("two kinds of framing")
    if not values.get(b"content-length", b"0").isdigit() or len(values.get(b"content-length", b"0")) > 18:
        raise Violation(f"Content-Length {values[b'content-length']!r}")
    if values.get(b"transfer-encoding", b"chunked") != b"chunked":
        raise Violation(f"Transfer-Encoding {values[b'transfer-encoding']!r}")
    if values.get(b"connection", b"close").lower() not in _CONNECTION:
        raise Violation(f"Connection {values[b'connection']!r}")
    if left := _OF_ONE_HOP.intersection(names):
        raise Violation(f"fields of one hop: {left}")


def _check_request(method: bytes, target: bytes, fields: Fields) -> None:
    hosts = [value for name, value in fields if name == b"host"]
    if len(hosts) != 1 or _HOST.fullmatch(hosts[0]) is None:
        raise Violation(f"Host {hosts!r}")
    if method == b"CONNECT" or b"#" in target or not (target.startswith(b"/") or (target == b"*" and method == b"OPTIONS")):
        raise Violation(f"{method!r} with the target {target[:100]!r}")


def _check_response(method: bytes, status: int, names: list[bytes]) -> bool:
    """Whether it ends with its head."""
    if status < 200 or status == 204:
        if b"content-length" in names or b"transfer-encoding" in names:
            raise Violation(f"framing fields with {status}")
        return True
    return method == b"HEAD" or status == 304


@attrs.define
class _Body:
    data: bytes
    at: int
    content: bytearray = attrs.Factory(bytearray)
    trailers: Fields = ()
    complete: bool = True

    def exactly(self, size: int) -> None:
        self.complete = len(self.data) - self.at >= size
        self._take(size)

    def rest(self, *, ended: bool) -> None:
        self.complete = ended
        self._take(len(self.data) - self.at)

    def chunked(self) -> None:
        while (line := self._line()) is not None:
            if _CHUNK_SIZE.fullmatch(line) is None:
                raise Violation(f"the chunk size {line[:60]!r}")
            size = int(line, 16)
            if not size:
                self._trailers()
                return
            self._take(size)
            if self.data[self.at : self.at + 2] != b"\r\n":
                if len(self.data) - self.at >= 2:
                    raise Violation("a chunk that does not end where it says")
                break
            self.at += 2
        self.complete = False

    def _trailers(self) -> None:
        lines = []
        while line := self._line():
            lines.append(line)
        self.complete = line is not None
        self.trailers = _fields(lines)
        if bad := _NEVER_IN_TRAILERS.intersection(name for name, _ in self.trailers):
            raise Violation(f"trailers {bad}")

    def _line(self) -> bytes | None:
        end = self.data.find(b"\r\n", self.at)
        if end < 0:
            if b"\n" in self.data[self.at :]:
                raise Violation("a bare LF in a chunked body")
            return None
        line = self.data[self.at : end]
        self.at = end + 2
        return line

    def _take(self, size: int) -> None:
        self.content += self.data[self.at : self.at + size]
        self.at = min(self.at + size, len(self.data))
