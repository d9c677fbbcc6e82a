"""Where a plugin failed, in one short line for a log: whatever the exception is, and whatever its code is made of."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from trio_tsconnect._contain import place

PATH = "/home/someone/project/plugins/gate.py"


def code_of(source: str, module: Any, path: str = PATH) -> dict[str, Any]:
    """The names that a source defines, as if it were this module of a file."""
    names: dict[str, Any] = {} if module is None else {"__name__": module}
    exec(compile(source, path, "exec"), names)  # noqa: S102 - as a module is made
    return names


def raised_by(act: Any, *args: Any) -> BaseException:
    try:
        act(*args)
    except BaseException as exc:  # noqa: BLE001 - any of them is asked for
        return exc
    raise AssertionError


GATE = code_of(
    "class Gate:\n    def read_request(self, act):\n        return act()\n\ndef fails():\n    raise ValueError('no')\n",
    "plugins.gate",
)
HELPER = code_of("def call(act):\n    return act()\n\ndef fails():\n    raise ValueError('no')\n", "helper", "/home/someone/helper.py")


def test_the_innermost_frame_of_the_plugins_module_counts() -> None:
    exc = raised_by(GATE["Gate"]().read_request, HELPER["fails"])
    assert place(exc, "plugins.gate") == "plugins/gate.py:3 in Gate.read_request"
    assert place(raised_by(HELPER["call"], GATE["fails"]), "plugins.gate") == "plugins/gate.py:6 in fails"


def test_without_such_a_frame_it_is_the_innermost_that_the_user_wrote() -> None:
    exc = raised_by(HELPER["call"], lambda: json.loads("{"))
    assert place(exc, "plugins.gate").startswith("tests/test_contain.py:")
    own = code_of("def feed(act):\n    return act()\n", "trio_tsconnect.engine._transforms", "/x/engine/_transforms.py")
    assert place(raised_by(HELPER["call"], lambda: own["feed"](HELPER["fails"])), None) == "someone/helper.py:5 in fails"
    assert place(raised_by(HELPER["call"], GATE["fails"]), None) == "plugins/gate.py:6 in fails"


def test_without_any_it_is_the_innermost() -> None:
    own = code_of("def feed(act):\n    return act.feed(b'')\n", "trio_tsconnect.engine._transforms", "/x/engine/_transforms.py")
    exc = raised_by(own["feed"], None)
    exc.__traceback__ = exc.__traceback__.tb_next if exc.__traceback__ else None  # without this test
    assert place(exc, "plugins.gate") == "engine/_transforms.py:2 in feed"


def test_of_a_group_the_first_leaf_counts() -> None:
    leaf = raised_by(GATE["fails"])
    outer = BaseExceptionGroup("outer", [BaseExceptionGroup("inner", [leaf, ValueError()])])
    assert place(outer, "plugins.gate") == "plugins/gate.py:6 in fails"


def test_of_a_leaf_that_was_never_raised_the_group_counts() -> None:
    raising = code_of("def both():\n    raise ExceptionGroup('both', [ValueError()])\n", "plugins.gate")
    assert place(raised_by(raising["both"]), "plugins.gate") == "plugins/gate.py:2 in both"


def test_an_exception_that_was_never_raised_has_no_place() -> None:
    assert place(ValueError(), "plugins.gate") == "unknown"


class Liar(Exception):
    """Answers a question about itself with another exception."""

    @property
    def __traceback__(self) -> Any:  # type: ignore[override]
        raise SystemExit(3)


class LyingGroup(ExceptionGroup[Exception]):
    @property
    def exceptions(self) -> Any:
        raise SystemExit(3)


def test_what_an_exception_says_about_itself_is_not_asked() -> None:
    def lie(kind: Any, *args: Any) -> None:
        raise kind(*args)

    assert place(raised_by(lie, Liar), None).startswith("tests/test_contain.py:")
    assert place(raised_by(lie, LyingGroup, "odd", [ValueError()]), None).startswith("tests/test_contain.py:")


@pytest.mark.parametrize("name", [None, 3, SimpleNamespace(partition=None)])
def test_code_without_a_module_and_a_file_is_named_as_it_is(name: Any) -> None:
    names = code_of("def fails():\n    raise ValueError", name, "<string>")
    assert place(raised_by(names["fails"]), "plugins.gate") == "<string>:2 in fails"


def test_function_of_c_is_named_by_its_caller() -> None:
    exc = raised_by(HELPER["call"], {}.popitem)
    assert place(exc, "helper") == "someone/helper.py:2 in call"


def test_file_has_one_folder_whatever_the_separator() -> None:
    names = code_of("def fails():\n    raise ValueError", "gate", "C:\\Users\\someone\\plugins\\gate.py")
    assert place(raised_by(names["fails"]), "gate") == "plugins/gate.py:2 in fails"


def test_it_is_short_and_the_line_is_in_it() -> None:
    names = code_of(f"def {'f' * 500}():\n    raise ValueError", "gate", f"/{'d' * 250}/{'g' * 250}.py")
    found = place(raised_by(names["f" * 500]), "gate")
    assert len(found) <= 200
    assert "ggg.py:2 in fff" in found


def test_recursion_without_an_end_is_one_place() -> None:
    names = code_of("def again():\n    again()", "gate")
    assert place(raised_by(names["again"]), "gate") == "plugins/gate.py:2 in again"
