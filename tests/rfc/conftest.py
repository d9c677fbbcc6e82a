"""Every rule is tried over a socket and over a virtual connection, from one parametrisation, and no wait takes time."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

pytest.register_assert_rewrite("tests.rfc._rig", "tests.rfc._tables")


@pytest.fixture(params=["tcp", "virtual"])
def transport(request: pytest.FixtureRequest) -> str:
    """How the client is connected to the proxy."""
    return str(request.param)


@pytest.fixture(autouse=True)
def clock() -> MockClock:
    """A clock that jumps when nothing has happened for a moment: long enough for a byte to cross the loopback interface."""
    return MockClock(autojump_threshold=0.005)
