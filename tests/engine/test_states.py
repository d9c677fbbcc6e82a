"""A transaction's states: the table is whole, and a transaction goes by it."""

from __future__ import annotations

import pytest

from tests.engine._world import GET, Wire, open_world, replying
from trio_tsconnect import InvalidState, Plugin, Transaction
from trio_tsconnect.hooks import TRANSITIONS, State


def reachable(start: State) -> set[State]:
    found, todo = {start}, [start]
    while todo:
        for following in TRANSITIONS[todo.pop()] - found:
            found.add(following)
            todo.append(following)
    return found


def test_the_table_knows_every_state_and_each_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(State)
    assert reachable(State.READ_REQUEST) == set(State)


@pytest.mark.parametrize("state", [state for state in State if state not in (State.RELEASE, State.CLOSED)])
def test_from_every_state_a_transaction_may_end_at_once(state: State) -> None:
    assert State.RELEASE in TRANSITIONS[state]


def test_a_transaction_ends_only_by_way_of_release() -> None:
    assert [state for state, following in TRANSITIONS.items() if State.CLOSED in following] == [State.RELEASE]
    assert TRANSITIONS[State.CLOSED] == frozenset()


def test_once_a_response_is_being_sent_no_other_origin_is_asked() -> None:
    assert TRANSITIONS[State.SEND_RESPONSE].isdisjoint({State.ACQUIRE_ORIGIN, State.SEND_REQUEST, State.READ_RESPONSE})


class Kept(Plugin):
    def __init__(self) -> None:
        self.txns: list[Transaction] = []

    async def transaction_start(self, txn: Transaction) -> None:
        self.txns.append(txn)


async def test_each_state_is_stamped_in_its_order_and_the_record_tells_when() -> None:
    kept = Kept()
    async with open_world(plugins=[kept]) as world:
        wire = world.connect()
        assert (await wire.ask()).status == 200
        await wire.stream.aclose()
    milestones = (await world.record()).milestones
    expected = [state.value for state in State if state not in (State.TUNNEL, State.CLOSED)]
    assert list(milestones) == expected
    assert list(milestones.values()) == sorted(milestones.values())
    assert kept.txns[0].state is State.CLOSED


async def test_a_step_that_the_table_does_not_allow_is_refused_with_both_names() -> None:
    class Wrong(Plugin):
        async def read_request(self, txn: Transaction) -> None:
            with pytest.raises(InvalidState, match="from read_request to tunnel"):
                txn.enter(State.TUNNEL)
            assert txn.state is State.READ_REQUEST

    async with open_world(plugins=[Wrong()]) as world:
        assert (await world.connect().ask()).status == 200


async def test_a_request_that_was_never_read_goes_from_reading_to_the_answer() -> None:
    async with open_world() as world:
        answer = await world.connect().ask(b"GET / HTTP/1.1\r\nbroken\r\n\r\n")
    assert answer.status == 400
    assert list((await world.record()).milestones) == ["read_request", "send_response", "release"]


async def test_a_retry_goes_back_to_the_pool() -> None:
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    async def serve(wire: Wire) -> None:
        await replying(ok)(wire) if len(world.origin.streams) > 1 else await once(wire)

    async def once(wire: Wire) -> None:
        await wire.head()
        await wire.send(ok)
        await wire.head()  # the second request: read, and not answered

    async with open_world(serve) as world:
        wire = world.connect()
        assert (await wire.ask(GET)).status == 200
        assert (await wire.ask(GET)).status == 200
    assert [record.attempts for record in world.records] == [1, 2]
    assert [record.origin_reused for record in world.records] == [False, False]
