"""Error pages of the proxy: short, with a content type, and safe to display whatever text they quote."""

from __future__ import annotations

from trio_tsconnect._util import public
from trio_tsconnect.message._status import reason_phrase

# Maximum number of characters.
_MAX_DETAIL = 400


@public("trio_tsconnect.message")
def error_page(status: int, detail: str) -> tuple[bytes, str]:
    """Return (body, content type) of the page for this status, with one sentence of explanation.

    The sentence may quote what a client or an origin sent. Non-printable characters are escaped. So are angle brackets, because some
    clients guess the content type and could find markup. The sentence is cut after 400 characters. The page shows no version and no address
    of the proxy.

    >>> error_page(404, "No rule for <b>.")
    (b'404 Not Found\\n\\nNo rule for \\\\x3cb\\\\x3e.\\n', 'text/plain; charset=utf-8')
    """
    shown = "".join(map(_escaped, detail[:_MAX_DETAIL])) + ("..." if len(detail) > _MAX_DETAIL else "")
    explanation = f"\n{shown}\n" if shown else ""
    return f"{status} {reason_phrase(status)}\n{explanation}".encode(), "text/plain; charset=utf-8"


def _escaped(character: str) -> str:
    if character.isprintable() and character not in "<>":
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{{{code:x}}}"
