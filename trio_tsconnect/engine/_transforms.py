"""Transforms that plugins apply to bodies while they are forwarded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trio_tsconnect._contain import sort_out
from trio_tsconnect.hooks import Transform


class Transforms:
    """Chain of transforms, applied in order. An exception in a transform is reported as a failure of its plugin."""

    def __init__(self, chain: Sequence[tuple[str, Transform]], blame: Callable[[str, BaseException], BaseException]) -> None:
        """Make a chain of (plugin name, transform).

        `blame(plugin, exception)` records the failure of a plugin and returns the exception to raise instead.
        """
        self._chain = chain
        self._blame = blame

    def feed(self, data: bytes | bytearray) -> bytes:
        """Return `data` after all transforms; `b""` if one of them keeps it for later."""
        result = bytes(data)
        for name, transform in self._chain:
            if not result:
                break
            result = self._run(name, transform, "feed", result)
        return result

    def finish(self) -> bytes:
        """Return the rest of the body, after its end. Each transform gets the rest of those before it, then is finished."""
        result = b""
        for name, transform in self._chain:
            fed = self._run(name, transform, "feed", result) if result else b""
            result = fed + self._run(name, transform, "finish")
        return result

    def _run(self, name: str, transform: Transform, step: str, *data: bytes) -> bytes:
        try:
            result = getattr(transform, step)(*data)
            if not isinstance(result, (bytes, bytearray)):
                raise TypeError(f"a transform's {step}() must return bytes, not {type(result).__name__}")
            return bytes(result)
        except BaseException as exc:
            failure, passing = sort_out(exc)
            if passing is not None:  # a cancellation or a Ctrl-C
                raise
            assert failure is not None
            raise self._blame(name, failure) from exc
