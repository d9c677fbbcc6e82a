"""Error details for heads that h11 rejects: the error of the matching rule in `message/`, or else h11's own text.

Invariant: nothing that is parsed here is used or forwarded. The head has been rejected already; these functions only choose the error.
"""

from __future__ import annotations

from trio_tsconnect.message import BadRequest, BadResponse, Request, Response, check_request, check_response


def _words(reason: Exception) -> str:
    # After a colon h11 quotes the received bytes as a Python repr. Leave that out.
    return str(reason).partition(":")[0]


def refused_request(head: bytes, reason: Exception) -> BadRequest:
    """Return the error for a request head that h11 has rejected with `reason`."""
    try:
        method, target, version = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
        check_request(Request(method, target, _fields_of(head), version.removeprefix("HTTP/")))
    except BadRequest as exc:
        return exc
    except ValueError:
        pass
    return BadRequest("malformed_head", f"The request head is malformed: {_words(reason)}.", getattr(reason, "error_status_hint", 400))


def refused_response(head: bytes, reason: Exception, method: str) -> BadResponse:
    """Return the error for a response head that h11 has rejected with `reason`. `method` is the method of the request."""
    try:
        version, status, _ = (head.partition(b"\r\n")[0].decode("latin-1") + " ").split(" ", 2)
        check_response(Response(int(status), _fields_of(head), "", version.removeprefix("HTTP/")), method)
    except BadResponse as exc:
        return exc
    except ValueError:
        pass
    return BadResponse("malformed_head", f"The response head is malformed: {_words(reason)}.")


def _fields_of(head: bytes) -> list[tuple[bytes, bytes]]:
    parted = [line.partition(b":") for line in head[:-4].split(b"\r\n")[1:]]
    return [(name, value.strip(b" \t")) for name, _, value in parted]
