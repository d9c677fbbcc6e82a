"""The proxy against what a real Traffic Server 9.2.9 did with the same bytes, and each transport against the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
from trio.testing import MockClock

from ._cases import CASES, FOUNDATION, Case, Outcome, Row
from ._differences import DIFFERENCES, expected, page
from ._drive import TRANSPORTS, Observed, observe, open_world, options

_WHO = frozenset(
    {
        "time",
        "session",
        "client_connection",
        "transaction",
        "root",
        "client_address",
        "tag",
        "id",
        "internal",
        "client_port",
        "origin_address",
    }
)
"""What a log record says of who the client was, and when."""
_WHICH_ORIGIN_CONNECTION = frozenset({"origin_connection", "origin_reused"})


@pytest.fixture
def clock() -> MockClock:
    """A clock that jumps when nothing has happened for a moment: long enough for a byte to cross the loopback interface."""
    return MockClock(autojump_threshold=0.005)


def _record(record: Any) -> dict[str, Any]:
    fields = {name: value for name, value in record.as_dict().items() if name not in _WHO | _WHICH_ORIGIN_CONNECTION}
    # the scheme of the URL is a fact of the client, too
    url = fields["url"] and fields["url"].replace("https://", "http://")
    return fields | {"milestones": list(fields["milestones"]), "url": url}


def _at_the_origin(observed: Observed) -> list[tuple[Any, ...]]:
    return [
        (request.method, request.target, [field for field in request.headers if "forwarded" not in field[0]], request.body)
        for request in observed.received
    ]


@pytest.mark.parametrize("name", FOUNDATION)
async def test_the_same_bytes_have_the_same_effect_over_every_transport(name: str, clock: MockClock) -> None:
    async with open_world() as world:
        over = {transport: await observe(CASES[name], transport, world) for transport in TRANSPORTS}
    for transport in ("tls", "virtual"):
        assert over[transport].undated_reply() == over["tcp"].undated_reply()
        assert over[transport].hooks == over["tcp"].hooks
        assert [_record(record) for record in over[transport].records] == [_record(record) for record in over["tcp"].records]
        assert _at_the_origin(over[transport]) == _at_the_origin(over["tcp"])


def _in_words_of(wanted: Outcome, got: Outcome) -> Outcome:
    """What was observed, without what the recording does not tell."""
    if not wanted.hooks:  # the recorder kept no hooks of a session without a transaction
        got = attrs.evolve(got, hooks=tuple(hook for hook in got.hooks if not hook.startswith("session_")))
    if len(got.log) == len(wanted.log):
        got = attrs.evolve(got, log=tuple(_row_in_words_of(want, row) for want, row in zip(wanted.log, got.log, strict=True)))
    if len(got.bodies) == len(wanted.bodies):
        got = attrs.evolve(got, bodies=tuple(None if w is None else b for w, b in zip(wanted.bodies, got.bodies, strict=True)))
    return got


def _row_in_words_of(wanted: Row, got: Row) -> Row:
    method = got.method if wanted.method is not None else None
    blame = wanted.blame if got.blame in wanted.blame.split(" or ") else got.blame
    return attrs.evolve(got, method=method, blame=blame)


def _check(case: Case, transport: str, observed: Observed) -> None:
    wanted = expected(case, transport)
    assert _in_words_of(wanted, observed.outcome()) == wanted
    identity = (case.logged_tag, case.id, True) if transport == "virtual" else (None, 0, False)
    assert {(record.tag, record.id, record.internal) for record in observed.records} <= {identity}
    final = [answer for answer in observed.answers() if answer.status >= 200]
    answered = [record for record in observed.records if record.status not in (None, 101)]
    if not {"close", "abort"}.intersection(step[0] for step in case.steps):  # bytes on their way to a client that left are lost
        assert [record.response_bytes for record in answered] == [len(answer.body) for answer in final]


def _can_be_played(case: Case, transport: str) -> bool:
    if DIFFERENCES[case.name].refused_option if case.name in DIFFERENCES else False:
        return False
    return transport != "tls" or ("shutw",) not in case.steps  # trio's TLS streams cannot close one direction only


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("name", FOUNDATION)
async def test_the_outcome_is_that_of_traffic_server(name: str, transport: str, clock: MockClock) -> None:
    async with open_world() as world:
        observed = await observe(CASES[name], transport, world)
    _check(CASES[name], transport, observed)


_OTHERS = [
    pytest.param(case, transport, id=f"{case.name}-{transport}")
    for case in CASES.values()
    if case.name not in FOUNDATION
    for transport in TRANSPORTS
    if _can_be_played(case, transport)
]


@pytest.mark.parametrize(("case", "transport"), _OTHERS)
async def test_every_other_case(case: Case, transport: str, clock: MockClock) -> None:
    async with open_world() as world:
        observed = await observe(case, transport, world)
    _check(case, transport, observed)


@pytest.mark.parametrize("name", [name for name, difference in DIFFERENCES.items() if difference.refused_option])
def test_an_option_out_of_range_is_refused_by_its_name(name: str) -> None:
    option = DIFFERENCES[name].refused_option
    assert option is not None
    with pytest.raises(ValueError, match=option):
        options(CASES[name])


@pytest.mark.parametrize("name", DIFFERENCES)
def test_every_listed_difference_is_one(name: str) -> None:
    difference = DIFFERENCES[name]
    assert all((difference.there, difference.here, difference.reason))
    changed = [transport for transport, outcome in difference.outcomes.items() if outcome != CASES[name].reference(transport)]
    assert changed or difference.refused_option


def test_the_documented_table_of_differences_is_the_one_that_is_tested() -> None:
    documented = Path(__file__).parents[2] / "docs" / "traffic_server.md"
    assert documented.read_text(encoding="utf-8") == page(), "to write it anew: python -m tests.golden > docs/traffic_server.md"
