"""What plugins do to bodies as they stream by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trio_tsconnect._contain import sort_out
from trio_tsconnect.hooks import Transform


class Transforms:
    """Several transforms, one after another. An exception in one is its plugin's failure."""

    def __init__(self, chain: Sequence[tuple[str, Transform]], blame: Callable[[str, BaseException], BaseException]) -> None:
        """`blame(plugin, exception)` puts a failure on its plugin's account, and returns what to raise in its place."""
        self._chain = chain
        self._blame = blame

    def feed(self, data: bytes | bytearray) -> bytes:
        """Run a piece through all of them."""
        result = bytes(data)
        for name, transform in self._chain:
            if not result:
                break
            result = self._run(name, transform, "feed", result)
        return result

    def finish(self) -> bytes:
        """Finish the first, run what it gives through the rest, then finish the next."""
        result = b""
        for name, transform in self._chain:
            fed = self._run(name, transform, "feed", result) if result else b""
            result = fed + self._run(name, transform, "finish")
        return result

    def _run(self, name: str, transform: Transform, step: str, *data: bytes) -> bytes:
        try:
            result = getattr(transform, step)(*data)
            if not isinstance(result, (bytes, bytearray)):
                raise TypeError(f"a transform returns bytes, and {step}() returned {type(result).__name__}")
            return bytes(result)
        except BaseException as exc:
            failure, passing = sort_out(exc)
            if passing is not None:
                raise
            assert failure is not None
            raise self._blame(name, failure) from exc
