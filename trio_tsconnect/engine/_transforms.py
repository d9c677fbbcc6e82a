"""Transforms that plugins apply to bodies while they are forwarded: a chain of stages, each of which reads the one before it.

Invariants: whatever a transform does with an error of the body that it reads, the transaction fails with that error. So a body that was cut
off never passes for a complete one. And a stage can be read again after the reader was cancelled, so a transform may give up waiting for
the next piece. That is why the stages are no async generators: a cancellation would end them for good.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import trio

from trio_tsconnect._contain import sort_out
from trio_tsconnect.hooks import AnyTransform
from trio_tsconnect.message import TransactionFailure

Blame = Callable[[str, BaseException], BaseException]


class Body(Protocol):
    """A body that is read piece by piece."""

    async def next_piece(self) -> bytes:
        """Return the next piece, or `b""` at the end, also in later calls. A call that was cancelled can be repeated."""
        ...


class Transforms:
    """Chain of transforms, applied in order. An exception in a transform is reported as a failure of its plugin."""

    def __init__(self, chain: Sequence[tuple[str, AnyTransform]], blame: Blame) -> None:
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
    async def of(self, body: Body) -> AsyncIterator[Body]:
        """Yield the body after all transforms. Every generator of the chain is closed at the end of the block."""
        stages: list[_Generated] = []
        for name, transform in self._chain:
            if hasattr(transform, "feed"):
                body = _Fed(name, transform, body, self._blame)
            else:
                body = _Generated(name, transform, body, self._blame)
                stages.append(body)
        try:
            yield body
        except BaseException:
            for stage in reversed(stages):
                await stage.close(quietly=True)  # the failure on its way out is the reason; another one must not take its place
            raise
        for stage in reversed(stages):
            await stage.close()

    async def whole(self, content: bytes) -> bytes:
        """Return the content of a complete body after all transforms."""
        async with self.of(Whole(content)) as body:
            pieces = []
            while piece := await body.next_piece():
                pieces.append(piece)
            return b"".join(pieces)


class Whole:
    """A body that is there already."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def next_piece(self) -> bytes:
        """Return all of it, then `b""`."""
        content, self._content = self._content, b""
        return content


class _Stage:
    """What both kinds of stages share."""

    def __init__(self, name: str, transform: Any, body: Body, blame: Blame) -> None:
        self._name, self._transform, self._body, self._blame = name, transform, body, blame
        self._ended = False

    def _failure(self, exc: BaseException) -> BaseException:
        """Return the exception to raise for one that the transform has raised. A cancellation in effect and a Ctrl-C are themselves."""
        failure, passing = sort_out(exc)
        if passing is not None or isinstance(failure, TransactionFailure):
            return exc
        assert failure is not None
        return self._blame(self._name, failure)


class _Fed(_Stage):
    """A transform that has `feed` and `finish`."""

    _within = False
    """True while the transform works on a piece: if that is cancelled, the piece is lost."""

    async def next_piece(self) -> bytes:
        while not self._ended:
            if self._within:
                raise self._blame(self._name, RuntimeError("the transform was cancelled while it worked on a piece of the body"))
            piece = await self._body.next_piece()
            self._ended = not piece
            if changed := await self._call("feed", piece) if piece else await self._call("finish"):
                return changed
        return b""

    async def _call(self, step: str, *data: bytes) -> bytes:
        self._within = True
        try:
            result = getattr(self._transform, step)(*data)
            changed = _as_bytes(await result if inspect.isawaitable(result) else result, f"{step}() must return")
        except BaseException as exc:
            raise self._failure(exc) from exc
        self._within = False
        return changed


class _Generated(_Stage):
    """A transform that is an async generator function."""

    def __init__(self, name: str, transform: Any, body: Body, blame: Blame) -> None:
        super().__init__(name, transform, body, blame)
        self._upstream = _Upstream(body)
        self._pieces: Any = None
        self._cancelled = False

    async def next_piece(self) -> bytes:
        while not self._ended:
            if self._cancelled:
                raise self._blame(self._name, RuntimeError("the transform was cancelled by the one after it, and cannot go on"))
            try:
                if self._pieces is None:
                    self._pieces = self._transform(self._upstream)
                piece = _as_bytes(await self._pieces.__anext__(), "must yield")
            except StopAsyncIteration:
                self._ended = True
            except BaseException as exc:
                if self._upstream.failure is not None:
                    raise self._upstream.failure from exc
                self._cancelled = isinstance(exc, trio.Cancelled)
                failure = self._failure(exc)
                await trio.lowlevel.checkpoint_if_cancelled()  # a clean-up that raises must not hide the cancellation
                raise failure from exc
            else:
                if piece:
                    return piece
        if self._upstream.failure is not None:  # the transform has swallowed it
            raise self._upstream.failure
        return b""

    async def close(self, *, quietly: bool = False) -> None:
        """Close the generator. With `quietly`, a failure of its clean-up is only logged."""
        if (aclose := getattr(self._pieces, "aclose", None)) is None:
            return
        try:
            await aclose()
        except BaseException as exc:
            failure = self._failure(exc)
            if failure is exc or not quietly:
                raise failure from exc


class _Upstream:
    """The body that an async generator reads. Remembers the error with which the body failed."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self.failure: Exception | None = None

    def __aiter__(self) -> _Upstream:
        return self

    async def __anext__(self) -> bytes:
        if self.failure is not None:
            raise self.failure
        try:
            piece = await self._body.next_piece()
        except Exception as exc:
            self.failure = exc
            raise
        if not piece:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Do nothing: the engine closes the body. For code that closes what it iterates over."""


def _as_bytes(result: object, rule: str) -> bytes:
    if not isinstance(result, (bytes, bytearray)):
        raise TypeError(f"a transform's {rule} bytes, not {type(result).__name__}")
    return bytes(result)
