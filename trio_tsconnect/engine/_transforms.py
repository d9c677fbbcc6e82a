"""Transforms that plugins apply to bodies while they are forwarded: a chain of async generators, each of which reads the one before it.

Invariant: whatever a transform does with an error of the body that it reads, the transaction fails with that error. So a body that was cut
off never passes for a complete one.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from trio_tsconnect._contain import sort_out
from trio_tsconnect.hooks import AnyTransform
from trio_tsconnect.message import TransactionFailure

Pieces = AsyncGenerator[bytes, None]


class Transforms:
    """Chain of transforms, applied in order. An exception in a transform is reported as a failure of its plugin."""

    def __init__(self, chain: Sequence[tuple[str, AnyTransform]], blame: Callable[[str, BaseException], BaseException]) -> None:
        """Make a chain of (plugin name, transform).

        `blame(plugin, exception)` records the failure of a plugin and returns the exception to raise instead.
        """
        self._chain = chain
        self._blame = blame

    @property
    def holds_head(self) -> bool:
        """True if the response head must not be sent before the chain has released the first byte of the body."""
        return any(getattr(transform, "holds_head", False) for _, transform in self._chain)

    @asynccontextmanager
    async def of(self, body: Pieces) -> AsyncIterator[Pieces]:
        """Yield the pieces of `body` after all transforms. Every generator of the chain is closed at the end of the block."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(body.aclose)
            for name, transform in self._chain:
                stage = self._fed if hasattr(transform, "feed") else self._generated
                body = stage(name, transform, body)
                stack.push_async_callback(body.aclose)
            yield body

    async def whole(self, content: bytes) -> bytes:
        """Return the content of a complete body after all transforms. It must not be empty: an empty body has no pieces."""
        async with self.of(_only(content)) as pieces:
            return b"".join([piece async for piece in pieces])

    async def _fed(self, name: str, transform: Any, body: Pieces) -> Pieces:
        """Run a transform that has `feed` and `finish`."""
        async for piece in body:
            if changed := await self._call(name, transform, "feed", piece):
                yield changed
        if rest := await self._call(name, transform, "finish"):
            yield rest

    async def _call(self, name: str, transform: Any, step: str, *data: bytes) -> bytes:
        try:
            result = getattr(transform, step)(*data)
            return _as_bytes(await result if inspect.isawaitable(result) else result, f"{step}() must return")
        except BaseException as exc:
            raise self._failure(name, exc) from exc

    async def _generated(self, name: str, transform: Any, body: Pieces) -> Pieces:
        """Run a transform that is an async generator function."""
        upstream = _Upstream(body)
        async with AsyncExitStack() as stack:
            try:
                pieces = transform(upstream)
                if (aclose := getattr(pieces, "aclose", None)) is not None:
                    stack.push_async_callback(aclose)
            except BaseException as exc:
                raise self._failure(name, exc) from exc
            while True:  # not `async for`: only what the transform raises is its failure, not what is thrown in at the `yield`
                try:
                    piece = _as_bytes(await pieces.__anext__(), "must yield")
                except StopAsyncIteration:
                    break
                except BaseException as exc:
                    if exc is upstream.failure:
                        raise
                    raise self._failure(name, exc) from exc
                if piece:
                    yield piece
        if upstream.failure is not None:  # the transform has swallowed it
            raise upstream.failure

    def _failure(self, name: str, exc: BaseException) -> BaseException:
        """Return the exception to raise for one that a transform has raised. A cancellation in effect and a Ctrl-C are themselves."""
        failure, passing = sort_out(exc)
        if passing is not None or isinstance(failure, TransactionFailure):
            return exc
        assert failure is not None
        return self._blame(name, failure)


class _Upstream:
    """The body that an async generator reads. Remembers the error with which it failed."""

    def __init__(self, body: Pieces) -> None:
        self._body = body
        self.failure: BaseException | None = None

    def __aiter__(self) -> _Upstream:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._body.__anext__()
        except StopAsyncIteration:
            raise
        except BaseException as exc:
            self.failure = exc
            raise


async def _only(content: bytes) -> Pieces:
    yield content


def _as_bytes(result: object, rule: str) -> bytes:
    if not isinstance(result, (bytes, bytearray)):
        raise TypeError(f"a transform's {rule} bytes, not {type(result).__name__}")
    return bytes(result)
