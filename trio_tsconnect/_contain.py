"""Code that is not ours (hooks, transforms, intercepts, applications): which of the exceptions it raises are its own failure.

Invariant: everything that such code raises is contained where it was called, except what is not its doing: a cancellation that is in
effect, and the KeyboardInterrupt of a real Ctrl-C.

What is hard here is to tell those two from copies of them. Code may keep a `trio.Cancelled` and raise it again when nothing is cancelled; let
through, it would leave `trio.run` as a bare `Cancelled`, with every connection of the process. Code may raise KeyboardInterrupt, SystemExit or
GeneratorExit by itself; let through, one request would end the server. So the exception's type is not trusted: trio is asked whether a
cancellation is in effect, and a KeyboardInterrupt is a Ctrl-C only if trio's own signal handling raised it.
"""

from __future__ import annotations

import math

import trio


def sort_out(exc: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Split what foreign code has raised into (its failure, what must be raised again); None where there is nothing of the kind.

    Call it in the task and the scope in which the exception was caught. A group is split by its leaves.
    """
    if isinstance(exc, BaseExceptionGroup):
        passing, failure = exc.split(_is_not_its_doing)
        return failure, passing
    return (None, exc) if _is_not_its_doing(exc) else (exc, None)


def describe(exc: BaseException) -> str:
    """The type and the text of an exception of foreign code, whose `__str__` may raise as well."""
    name = type(exc).__name__
    try:
        return f"{name}: {exc}"
    except BaseException as worse:
        if sort_out(worse)[1] is not None:
            raise
        return f"{name}: (its text cannot be had: {type(worse).__name__})"


def _is_not_its_doing(exc: BaseException) -> bool:
    match exc:
        case trio.Cancelled():
            return _cancelled_here() is not False
        case KeyboardInterrupt():
            return _raised_by_trio(exc)
        case GeneratorExit():
            return _cancelled_here() is None  # the run is over, and the coroutine is thrown away
        case _:
            return False


def _cancelled_here() -> bool | None:
    """None outside of a trio run."""
    try:
        return trio.current_effective_deadline() == -math.inf
    except RuntimeError:
        return None


def _raised_by_trio(exc: BaseException) -> bool:
    """Whether the innermost frame is trio's: its handler of SIGINT raises where the signal finds the program, or at a checkpoint."""
    traceback = exc.__traceback__
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return str(traceback.tb_frame.f_globals.get("__name__", "")).partition(".")[0] == "trio"
