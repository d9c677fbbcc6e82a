"""Import the transports whose libraries are installed. A transport without its library is a function that raises and names the extra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

__all__ = ["HttpxTransport"]

if TYPE_CHECKING:
    from trio_tsconnect.clients._httpx import HttpxTransport
else:

    def _stand_in(name: str, extra: str, missing: ModuleNotFoundError) -> Any:
        if missing.name != extra:  # a module is missing inside the library: do not hide that
            raise missing

        def needs_extra(*args: Any, **kwargs: Any) -> NoReturn:
            raise ModuleNotFoundError(f"{name} needs {extra}: pip install 'trio-tsconnect[{extra}]'", name=extra)

        return needs_extra

    try:
        from trio_tsconnect.clients._httpx import HttpxTransport
    except ModuleNotFoundError as missing:
        HttpxTransport = _stand_in("HttpxTransport", "httpx", missing)
