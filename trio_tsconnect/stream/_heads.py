"""Heads as bytes: find the end of a head, validate its bytes and size, and serialize a head.

Invariant: everything that h11 would hide by parsing is validated here, on the bytes. RFC 9112 §2.2 allows a recipient to accept a bare LF
as a line terminator, and §5.2 allows it to unfold folded lines. Two parties can disagree about such a message, so this proxy rejects it.
"""

from __future__ import annotations

import attrs

from trio_tsconnect._util import public
from trio_tsconnect.message import Headers, MessageError, Request, Response

_CONTROLS = bytes(c for c in range(0x20) if c not in b"\t\r\n") + b"\x7f"


@public("trio_tsconnect.stream")
@attrs.frozen(kw_only=True)
class HeadLimits:
    """Limits of one head or one trailer section."""

    request_line: int = 8192
    """Maximum size of the request line, in bytes."""
    head: int = 32768
    """Maximum size of a head or a trailer section, in bytes, including its blank line."""
    fields: int = 100
    """Maximum number of field lines."""


def head_end(buffer: bytearray, start: int) -> int:
    """Return the index just past the blank line that ends a head, or -1. `start` is the number of bytes that were searched before.

    A blank line that follows a bare LF also ends the head: such a head is rejected at once, without waiting for a correct end.
    """
    # The blank line may begin in the bytes that were searched before.
    start = max(0, start - 3)
    proper = buffer.find(b"\n\r\n", start)
    bare = buffer.find(b"\n\n", start, proper + 2 if proper >= 0 else len(buffer))
    if bare >= 0:
        return bare + 2
    return proper + 3 if proper >= 0 else -1


def check_head_bytes(head: bytes, limits: HeadLimits, error: type[MessageError], *, start_line: bool = True) -> None:
    """Validate the bytes of a head or a trailer section, including its blank line (RFC 9112 §2.2, §5.2; RFC 9110 §5.5).

    `start_line`: False for a trailer section. Raise `error` for too many field lines, a bare CR or LF, a control character, or a folded line.
    """
    lines = head.count(b"\n")
    if lines - 1 - start_line > limits.fields:
        raise error("head_too_large", f"The head has more than {limits.fields} field lines.", too_large(error))
    if head.count(b"\r\n") != lines or head.count(b"\r") != lines:
        raise error("bare_line_end", "A line ends in a bare LF or contains a bare CR (RFC 9112 section 2.2).")
    if len(head.translate(None, _CONTROLS)) != len(head):
        raise error("control_character", "The head contains a control character (RFC 9110 section 5.5).")
    if b"\n " in head or b"\n\t" in head:
        raise error("folded_line", "A line of the head begins with white space: folded lines are not allowed (RFC 9112 section 5.2).")


def check_head_size(buffer: bytearray, end: int, limits: HeadLimits, error: type[MessageError], *, request: bool) -> None:
    """Raise `error` if a head is too large. `end` is the size of the complete head, or -1 while it is incomplete.

    An incomplete head is measured by what is buffered, so it is rejected as soon as it exceeds a limit. `request`: also limit the request
    line.
    """
    size = end if end >= 0 else len(buffer)
    if request and size > limits.request_line:
        line = buffer.find(b"\n", 0, limits.request_line + 1)
        if line < 0:
            raise error("target_too_long", f"The request line is longer than {limits.request_line} bytes.", 414)
    if size > limits.head:
        raise error("head_too_large", f"The head is longer than {limits.head} bytes.", too_large(error))


def too_large(error: type[MessageError]) -> int:
    """Return the status for a message that exceeds a limit: 431 for a request (RFC 6585 §5), else the default status of the error type."""
    return 431 if error.default_status == 400 else error.default_status


def fields_to_bytes(headers: Headers) -> bytes:
    """Serialize field lines, each with its CRLF. Names keep their case."""
    return b"".join([b"%b: %b\r\n" % (raw, value) for raw, _, value in headers.fields])


@public("trio_tsconnect.stream")
def request_to_bytes(request: Request, target: str) -> bytes:
    """Serialize a request head for `target`. The version is always HTTP/1.1: each hop sends its own (RFC 9110 §2.5)."""
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (request.method.encode("ascii"), target.encode("ascii"), fields_to_bytes(request.headers))


def response_to_bytes(response: Response) -> bytes:
    """Serialize a response head. `Response` never has an empty reason phrase: some clients cannot parse one."""
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (response.status, response.reason.encode("latin-1"), fields_to_bytes(response.headers))
