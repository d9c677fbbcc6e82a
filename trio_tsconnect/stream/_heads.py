"""Heads as bytes: where one ends, what makes it unacceptable, and how one is written.

The law: here is judged what is lost once h11 has parsed. RFC 9112 §2.2 lets a recipient take a bare LF for a line end, and §5.2 lets it
unfold folded lines; each such kindness is a message on which two parties can disagree, so a proxy extends none of them.
"""

from __future__ import annotations

import attrs

from trio_tsconnect._util import public
from trio_tsconnect.message import Headers, MessageError, Request, Response

_CONTROLS = bytes(c for c in range(0x20) if c not in b"\t\r\n") + b"\x7f"


@public("trio_tsconnect.stream")
@attrs.frozen(kw_only=True)
class HeadLimits:
    """The bounds of what is read as one head or one trailer section."""

    request_line: int = 8192
    """Bytes of the first line of a request."""
    head: int = 32768
    """Bytes of the whole head, its blank line included; also of a trailer section."""
    fields: int = 100
    """Field lines."""


def head_end(buffer: bytearray, start: int) -> int:
    """The index just past the blank line that ends a head, or -1. `start`: how much was searched before.

    A blank line after a bare LF is an end as well: the head is then refused whole, at once, and not read on for a proper end.
    """
    start = max(0, start - 3)
    proper = buffer.find(b"\n\r\n", start)
    bare = buffer.find(b"\n\n", start, proper + 2 if proper >= 0 else len(buffer))
    if bare >= 0:
        return bare + 2
    return proper + 3 if proper >= 0 else -1


def check_head_bytes(head: bytes, limits: HeadLimits, error: type[MessageError], *, start_line: bool = True) -> None:
    """Judge a head or a trailer section, its blank line included, on its bytes; raise `error` (RFC 9112 §2.2, §5.2; RFC 9110 §5.5)."""
    lines = head.count(b"\n")
    if lines - 1 - start_line > limits.fields:
        raise error("head_too_large", f"More than {limits.fields} field lines.", too_large(error))
    if head.count(b"\r\n") != lines or head.count(b"\r") != lines:
        raise error("bare_line_end", "A line ends in a bare LF, or holds a bare CR (RFC 9112 section 2.2).")
    if len(head.translate(None, _CONTROLS)) != len(head):
        raise error("control_character", "A control character in the head (RFC 9110 section 5.5).")
    if b"\n " in head or b"\n\t" in head:
        raise error("folded_line", "A field line is folded, or the first one begins with white space (RFC 9112 section 5.2).")


def check_head_size(buffer: bytearray, end: int, limits: HeadLimits, error: type[MessageError], *, request: bool) -> None:
    """Judge the size of a head of which `end` bytes are known to belong together (-1: not complete yet)."""
    size = end if end >= 0 else len(buffer)
    if request and size > limits.request_line:
        line = buffer.find(b"\n", 0, limits.request_line + 1)
        if line < 0:
            raise error("target_too_long", f"The request line is longer than {limits.request_line} bytes.", 414)
    if size > limits.head:
        raise error("head_too_large", f"The head is longer than {limits.head} bytes.", too_large(error))


def too_large(error: type[MessageError]) -> int:
    """The status for what is larger than a limit: RFC 6585 §5 for a request, what its error says for a response."""
    return 431 if error.default_status == 400 else error.default_status


def fields_to_bytes(headers: Headers) -> bytes:
    """Field lines, each with its CRLF; names as they were written."""
    return b"".join([b"%b: %b\r\n" % (raw, value) for raw, _, value in headers.fields])


@public("trio_tsconnect.stream")
def request_to_bytes(request: Request, target: str) -> bytes:
    """A request head with this target on its line. Always HTTP/1.1: the version is the hop's own (RFC 9110 §2.5)."""
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (request.method.encode("ascii"), target.encode("ascii"), fields_to_bytes(request.headers))


def response_to_bytes(response: Response) -> bytes:
    """A response head. The reason phrase is never empty: some clients cannot read an empty one."""
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (response.status, response.reason.encode("latin-1"), fields_to_bytes(response.headers))
