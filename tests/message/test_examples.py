from __future__ import annotations

import doctest

import pytest

from trio_tsconnect import message

with_examples = [name for name in dir(message) if ">>>" in (getattr(getattr(message, name), "__doc__", None) or "")]


@pytest.mark.parametrize("name", with_examples)
def test_the_example_in_the_documentation_of(name: str) -> None:
    # Not doctest's own search: it passes over what is shown under another module than the one it was written in.
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder(recurse=False).find(getattr(message, name), name, module=False, globs=vars(message).copy()):
        runner.run(example)
    assert runner.tries
    assert not runner.failures
