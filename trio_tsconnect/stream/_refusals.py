"""What h11 refuses while parsing, in the words of the rules of `message/` where they have any.

The law: a refusal is found out here and nothing else: the head is malformed already, and nobody gets it.
"""

from __future__ import annotations

from trio_tsconnect.message import BadRequest, BadResponse, Request, Response, check_request, check_response


def _words(reason: Exception) -> str:
    # what h11 quotes after a colon is its own view of the bytes, as Python would write them
    return str(reason).partition(":")[0]


def refused_request(head: bytes, reason: Exception) -> BadRequest:
    """Why this request head was refused, `reason` being what h11 said."""
    try:
        method, target, version = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
        check_request(Request(method, target, _fields_of(head), version.removeprefix("HTTP/")))
    except BadRequest as exc:
        return exc
    except ValueError:
        pass
    return BadRequest("malformed_head", f"The request head is malformed: {_words(reason)}.", getattr(reason, "error_status_hint", 400))


def refused_response(head: bytes, reason: Exception, method: str) -> BadResponse:
    """Why this response head was refused; `method`: of the request that it answers."""
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
