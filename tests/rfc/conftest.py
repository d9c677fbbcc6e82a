"""Every rule is tried over a socket and over a virtual connection, from one parametrisation."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.rfc._rig", "tests.rfc._tables", "tests.rfc._judge")

from tests.rfc._rig import on_mock_clock


@pytest.fixture(params=["tcp", "virtual"])
def transport(request: pytest.FixtureRequest) -> str:
    """How the client is connected to the proxy."""
    return str(request.param)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # pytest-trio's own mode marks each test with its own way to run; what a module asks for has to come before it.
    for item in items:
        for mark in item.iter_markers("trio"):
            if mark.kwargs.get("run") is on_mock_clock:
                item.add_marker(pytest.mark.trio(run=on_mock_clock), append=False)
                break
