"""Exceptions of foreign code (hooks, transforms, intercepts, applications): separate its own failures from exceptions that must propagate.

Invariant: every exception that foreign code raises is contained where the code was called, except a cancellation that is in effect, the
KeyboardInterrupt of a real Ctrl-C, and a GeneratorExit outside of a trio run.

Theory of operation
-------------------

The type of an exception does not tell which kind it is. Foreign code may store a `trio.Cancelled` and raise it when nothing is cancelled.
If that propagated, it would leave `trio.run` as a bare `Cancelled` and end every connection of the process. Foreign code may also raise
KeyboardInterrupt, SystemExit or GeneratorExit itself. If that propagated, one request would end the server.

Containing all of these types would be wrong as well: a real cancellation must reach its scope, and Ctrl-C must end the program. So the
cause is checked, not the type. For `Cancelled`, trio is asked if a cancellation is in effect here. A KeyboardInterrupt is a Ctrl-C only if
a frame of trio raised it, which is where trio's signal handler raises. A GeneratorExit outside of a trio run comes from Python, which
closes an abandoned coroutine.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from types import FrameType, TracebackType

import trio

_LONGEST_FILE, _LONGEST_FUNCTION = 100, 80
_NOT_THE_AUTHORS = sys.stdlib_module_names | {"outcome", "trio", "trio_tsconnect"}  # outcome is part of how trio runs a task
# Read through the base classes: a subclass may define these names itself, and its code could raise.
_traceback_of = BaseException.__dict__["__traceback__"].__get__
_members_of = BaseExceptionGroup.__dict__["exceptions"].__get__


def sort_out(exc: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Split an exception of foreign code into (its own failure, what must be raised again). A part is None if there is nothing of that
    kind.

    Call it in the task and the cancel scope in which the exception was caught. An exception group is split by its leaves.
    """
    if isinstance(exc, BaseExceptionGroup):
        passing, failure = exc.split(_is_not_its_doing)
        return failure, passing
    return (None, exc) if _is_not_its_doing(exc) else (exc, None)


def describe(exc: BaseException) -> str:
    """Return the type and text of an exception of foreign code. Its `__str__` may raise: then the text is replaced."""
    name = type(exc).__name__
    try:
        return f"{name}: {exc}"
    except BaseException as worse:
        if sort_out(worse)[1] is not None:
            raise
        return f"{name}: (no text: __str__ raised {type(worse).__name__})"


def place(exc: BaseException, module: str | None) -> str:
    """Return where an exception was raised, as `FILE:LINE in FUNCTION`; `unknown` if it has no traceback.

    That is the innermost frame of `module`, the module of the plugin's class. Without one, it is the innermost frame outside of this
    package, trio and the standard library; without that, the innermost frame. FILE has one parent folder at most: a log may be read by
    those who must not see the paths of the machine. Of an exception group the first leaf counts. Never raises, and returns at most 200
    characters.
    """
    frames = list(_frames(exc))
    if not frames:
        return "unknown"
    own = [each for each in frames if module is not None and _module_of(each[0]) == module]
    foreign = [each for each in frames if _module_of(each[0]).partition(".")[0] not in _NOT_THE_AUTHORS]
    frame, line = (own or foreign or frames)[-1]
    code = frame.f_code
    file = "/".join(code.co_filename.replace("\\", "/").split("/")[-2:])
    return f"{file[-_LONGEST_FILE:]}:{line or '?'} in {code.co_qualname[:_LONGEST_FUNCTION]}"


def _frames(exc: BaseException) -> Iterator[tuple[FrameType, int | None]]:
    """Return the frames and lines of the first leaf, the innermost last; those of its group if the leaf was never raised."""
    traceback: TracebackType | None = _traceback_of(exc)
    while isinstance(exc, BaseExceptionGroup):
        exc = _members_of(exc)[0]
        traceback = _traceback_of(exc) or traceback
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def _module_of(frame: FrameType) -> str:
    """Return the name of the module of a frame; empty for code from `exec` that has none."""
    name = dict.get(frame.f_globals, "__name__")
    return name if type(name) is str else ""


def _is_not_its_doing(exc: BaseException) -> bool:
    match exc:
        case trio.Cancelled():
            return _cancelled_here() is not False
        case KeyboardInterrupt():
            return _raised_by_trio(exc)
        case GeneratorExit():
            return _cancelled_here() is None  # the run is over: Python closes the abandoned coroutine
        case _:
            return False


def _cancelled_here() -> bool | None:
    """Return True if a cancellation is in effect in the current scope; None outside of a trio run."""
    try:
        return trio.current_effective_deadline() == -math.inf
    except RuntimeError:
        return None


def _raised_by_trio(exc: BaseException) -> bool:
    """Return True if the innermost frame is trio's. Its SIGINT handler raises in the interrupted code, or at the next checkpoint."""
    traceback = exc.__traceback__
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return str(traceback.tb_frame.f_globals.get("__name__", "")).partition(".")[0] == "trio"
