"""Virtual connections: the contract of a byte stream, the exact bound, the water mark, and what a round trip costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from trio_tsconnect.stream import VirtualConnection, open_virtual_connection_pair


async def make_pair() -> tuple[VirtualConnection, VirtualConnection]:
    return open_virtual_connection_pair()


async def make_reversed_pair() -> tuple[VirtualConnection, VirtualConnection]:
    opener, other = open_virtual_connection_pair()
    return other, opener


async def make_clogged_pair() -> tuple[VirtualConnection, VirtualConnection]:
    opener, other = open_virtual_connection_pair(buffer_index=0)
    await opener.send_all(b"x" * 128)
    await other.send_all(b"x" * 128)
    return opener, other


@pytest.mark.parametrize("maker", [make_pair, make_reversed_pair])
async def test_is_a_half_closeable_stream_in_every_way_trio_checks(maker: Callable[[], object]) -> None:
    await trio.testing.check_half_closeable_stream(maker, make_clogged_pair)  # type: ignore[arg-type]


async def test_with_a_water_mark_is_a_stream_towards_the_side_without_one() -> None:
    async def marked() -> tuple[VirtualConnection, VirtualConnection]:
        return open_virtual_connection_pair(buffer_index=2, buffer_water_mark=1)

    await trio.testing.check_half_closeable_stream(marked, make_clogged_pair)


@pytest.mark.parametrize(("index", "window"), [(0, 128), (4, 2048), (8, 32768), (14, 2097152)])
@pytest.mark.parametrize("chunk", [1, 2, 100, 5_000_000])
async def test_an_unread_connection_stalls_at_exactly_the_window(index: int, window: int, chunk: int) -> None:
    if chunk < 100 and window > 2048:
        chunk = 1000 + chunk
    for writer, reader in (open_virtual_connection_pair(buffer_index=index), open_virtual_connection_pair(buffer_index=index)[::-1]):

        async def fill(writer: VirtualConnection = writer) -> None:
            while True:
                await writer.send_all(b"x" * chunk)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill)
            await trio.testing.wait_all_tasks_blocked()
            assert reader.statistics().receiving.unread == window
            assert writer.statistics().sending.writer_blocked
            taken = await reader.receive_some(77)
            await trio.testing.wait_all_tasks_blocked()
            assert reader.statistics().receiving.unread == window
            assert reader.statistics().receiving.total == window + len(taken)
            nursery.cancel_scope.cancel()


class Steps(trio.abc.Instrument):
    def __init__(self) -> None:
        self.steps = 0
        self.passes = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1

    def before_io_wait(self, timeout: float) -> None:
        self.passes += 1


async def test_a_round_trip_costs_four_task_steps_and_two_loop_passes() -> None:
    near, far = open_virtual_connection_pair()

    async def echo() -> None:
        while data := await far.receive_some():
            await far.send_all(data)

    async def ping(times: int) -> None:
        for _ in range(times):
            await near.send_all(b"ping")
            assert await near.receive_some() == b"ping"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo)
        await ping(3)
        counter = Steps()
        trio.lowlevel.add_instrument(counter)
        await ping(100)
        trio.lowlevel.remove_instrument(counter)
        assert counter.passes == 200
        assert abs(counter.steps - 400) <= 1  # where the counting begins and ends, the echo may be one step off
        nursery.cancel_scope.cancel()


async def test_the_water_mark_holds_bytes_until_it_is_reached_and_releases_them_as_one_piece() -> None:
    near, far = open_virtual_connection_pair(buffer_index=4, buffer_water_mark=10)
    async with trio.open_nursery() as nursery:
        got: list[bytes] = []

        async def read() -> None:
            while data := await near.receive_some():
                got.append(data)

        nursery.start_soon(read)
        await far.send_all(b"12345")
        await far.send_all(b"6789")
        await trio.testing.wait_all_tasks_blocked()
        assert got == []
        assert near.statistics().receiving.held == 9
        await far.send_all(b"0")
        await trio.testing.wait_all_tasks_blocked()
        assert got == [b"1234567890"]
        await far.send_all(b"abc")
        far.flush()
        await trio.testing.wait_all_tasks_blocked()
        assert got[1:] == [b"abc"]
        await far.send_all(b"rest")
        await far.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        assert got[2:] == [b"rest"]


async def test_the_water_mark_does_not_act_on_what_the_opener_writes() -> None:
    near, far = open_virtual_connection_pair(buffer_water_mark=1000)
    await near.send_all(b"x")
    assert await far.receive_some() == b"x"


async def test_a_full_window_is_released_below_the_mark_and_closing_releases_too() -> None:
    near, far = open_virtual_connection_pair(buffer_index=0, buffer_water_mark=128)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(far.send_all, b"y" * 128)
        assert await near.receive_some() == b"y" * 128
    await far.send_all(b"tail")
    await far.aclose()
    assert await near.receive_some() == b"tail"
    assert await near.receive_some() == b""


async def test_flush_reaches_a_reader_that_comes_later() -> None:
    near, far = open_virtual_connection_pair(buffer_water_mark=100)
    await far.send_all(b"a" * 100)  # an unread item: what follows is merged behind it
    await far.send_all(b"b")
    far.flush()
    assert await near.receive_some() == b"a" * 100
    assert await near.receive_some() == b"b"


async def test_small_writes_with_no_reader_are_merged() -> None:
    near, far = open_virtual_connection_pair()
    for _ in range(500):
        await far.send_all(b"ab")
    assert await near.receive_some() == b"ab"
    assert await near.receive_some() == b"ab" * 499


async def test_a_mutable_buffer_is_not_aliased() -> None:
    near, far = open_virtual_connection_pair()
    buffer = bytearray(b"before")
    await near.send_all(buffer)
    buffer[:] = b"after!"
    assert await far.receive_some() == b"before"
    view = memoryview(bytearray(b"12345678")).cast("I")
    await near.send_all(view)
    assert await far.receive_some() == b"12345678"


async def test_an_empty_write_is_no_end_of_input() -> None:
    near, far = open_virtual_connection_pair()
    await near.send_all(b"")
    await near.send_all(b"x")
    assert await far.receive_some() == b"x"


async def test_half_close_full_close_and_abort_are_three_things() -> None:
    near, far = open_virtual_connection_pair()
    await near.send_all(b"last words")
    await near.send_eof()
    await far.send_all(b"answer")  # half-closed: the other direction lives
    assert await near.receive_some() == b"answer"
    assert await far.receive_some() == b"last words"
    assert await far.receive_some() == b""

    near, far = open_virtual_connection_pair()
    await near.send_all(b"last words")
    await near.aclose()
    with pytest.raises(trio.BrokenResourceError, match="closed"):
        await far.send_all(b"x")
    assert await far.receive_some() == b"last words"
    assert await far.receive_some() == b""

    near, far = open_virtual_connection_pair()
    await near.send_all(b"last words")
    near.abort("the reason")
    with pytest.raises(trio.BrokenResourceError, match="the reason"):
        await far.send_all(b"x")
    with pytest.raises(trio.BrokenResourceError, match="the reason"):
        await far.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await near.receive_some()
    assert "the reason" in repr(far)


@pytest.mark.parametrize("end", ["send_eof", "aclose", "abort"])
async def test_each_ending_wakes_who_waits_on_what_it_ended(end: str) -> None:
    near, far = open_virtual_connection_pair(buffer_index=0)
    await far.send_all(b"x" * 128)
    outcome: dict[str, object] = {}

    async def run(name: str, coro: Callable[[], object]) -> None:
        try:
            outcome[name] = await coro()  # type: ignore[misc]
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            outcome[name] = type(exc)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, "peer reads", far.receive_some)
        nursery.start_soon(run, "peer writes", lambda: far.send_all(b"y"))
        await trio.testing.wait_all_tasks_blocked()
        if end == "abort":
            near.abort()
        else:
            await getattr(near, end)()
        await trio.testing.wait_all_tasks_blocked()
        broken = trio.BrokenResourceError
        assert (
            outcome
            == {
                "send_eof": {"peer reads": b""},
                "aclose": {"peer reads": b"", "peer writes": broken},
                "abort": {"peer reads": broken, "peer writes": broken},
            }[end]
        )
        nursery.cancel_scope.cancel()


async def test_an_abort_overtakes_an_item_already_handed_to_a_reader() -> None:
    near, far = open_virtual_connection_pair()
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await far.receive_some()

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        near._out._put(b"in flight", 9)  # the reader is woken, and has not run
        near.abort()
    assert far.statistics().receiving.unread == 0


async def test_two_tasks_in_one_direction_conflict() -> None:
    near, _far = open_virtual_connection_pair(buffer_index=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.receive_some)
        nursery.start_soon(near.send_all, b"x" * 129)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await near.receive_some()
        with pytest.raises(trio.BusyResourceError):
            await near.send_all(b"y")
        with pytest.raises(trio.BusyResourceError):
            await near.wait_send_all_might_not_block()
        with pytest.raises(trio.BusyResourceError):
            await near.send_eof()
        nursery.cancel_scope.cancel()


async def test_every_call_is_a_checkpoint_even_when_it_fails_or_ends() -> None:
    near, far = open_virtual_connection_pair()
    await far.aclose()
    with trio.testing.assert_checkpoints():
        assert await near.receive_some() == b""
    with trio.testing.assert_checkpoints():
        assert await near.receive_some() == b""
    near, far = open_virtual_connection_pair()
    with trio.testing.assert_checkpoints():
        await near.send_all(b"")
    with trio.testing.assert_checkpoints():
        await near.send_eof()
    with trio.testing.assert_checkpoints():
        await near.send_eof()
    with trio.testing.assert_checkpoints():
        await near.aclose()
    with trio.testing.assert_checkpoints():
        await near.aclose()
    with trio.testing.assert_checkpoints(), pytest.raises(trio.ClosedResourceError):
        await near.send_eof()


async def test_a_cancelled_read_loses_nothing() -> None:
    near, far = open_virtual_connection_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await far.receive_some()
    await near.send_all(b"kept")
    with trio.CancelScope() as scope:
        scope.cancel()
        await far.receive_some()
    assert await far.receive_some() == b"kept"


async def test_closing_under_cancellation_closes() -> None:
    near, far = open_virtual_connection_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await near.aclose()
    assert await far.receive_some() == b""


async def test_the_peer_is_told_once_that_it_is_alone() -> None:
    near, far = open_virtual_connection_pair()
    reasons: list[str] = []
    far.watch_peer(reasons.append)
    await near.send_eof()
    assert reasons == []
    near.abort("gone for good")
    await near.aclose()
    assert reasons == ["gone for good"]
    near, far = open_virtual_connection_pair()
    await near.aclose()
    far.watch_peer(reasons.append)
    assert reasons[1:] == ["closed"]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"buffer_index": -1}, "buffer_index"),
        ({"buffer_index": 15}, "buffer_index"),
        ({"buffer_index": True}, "buffer_index"),
        ({"buffer_index": "8"}, "buffer_index"),
        ({"buffer_water_mark": -1}, "buffer_water_mark"),
        ({"buffer_index": 0, "buffer_water_mark": 129}, "buffer_water_mark"),
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, object], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} "):
        open_virtual_connection_pair(**options)  # type: ignore[arg-type]


@given(
    writes=st.lists(st.binary(max_size=300), max_size=30),
    reads=st.lists(st.integers(min_value=1, max_value=200), min_size=1),
    mark=st.integers(min_value=0, max_value=128),
    flushes=st.sets(st.integers(min_value=0, max_value=30)),
)
def test_bytes_arrive_whole_and_in_order_whatever_the_split(writes: list[bytes], reads: list[int], mark: int, flushes: set[int]) -> None:
    async def main() -> bytes:
        near, far = open_virtual_connection_pair(buffer_index=0, buffer_water_mark=mark)
        got = bytearray()

        async def write() -> None:
            for i, data in enumerate(writes):
                await far.send_all(data)
                assert near.statistics().receiving.unread <= 128
                if i in flushes:
                    far.flush()
            await far.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            for i in range(10_000):
                data = await near.receive_some(reads[i % len(reads)])
                if not data:
                    break
                assert len(data) <= reads[i % len(reads)]
                got += data
        return bytes(got)

    assert trio.run(main) == b"".join(writes)


async def test_closing_both_ends_in_the_tick_in_which_a_reader_was_woken_is_complete() -> None:
    near, far = open_virtual_connection_pair()
    told: list[str] = []
    near.watch_peer(told.append)
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await far.receive_some()

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        near.send_nowait(b"in flight")  # the reader is woken, and has not run
        near._out.close_write()
        far.close()
    assert told == ["closed"]
    assert far.statistics().receiving.unread == 0


def test_send_nowait_writes_all_or_nothing() -> None:
    async def main() -> None:
        near, far = open_virtual_connection_pair(buffer_index=0)
        near.send_nowait(b"x" * 100)
        with pytest.raises(trio.WouldBlock):
            near.send_nowait(b"y" * 29)
        near.send_nowait(b"z" * 28)
        assert await far.receive_some() + await far.receive_some() == b"x" * 100 + b"z" * 28

    trio.run(main)


async def test_receive_nowait_reads_what_is_there_and_never_waits() -> None:
    near, far = open_virtual_connection_pair(buffer_index=0)
    with pytest.raises(trio.WouldBlock):
        far.receive_nowait()
    near.send_nowait(b"abcdef")
    assert far.receive_nowait(2) == b"ab"
    assert far.receive_nowait() == b"cdef"
    assert far.statistics().receiving.unread == 0
    await near.send_eof()
    assert far.receive_nowait() == b""
    near.abort("enough")
    with pytest.raises(trio.BrokenResourceError, match="enough"):
        far.receive_nowait()
    far.close()
    with pytest.raises(trio.ClosedResourceError):
        far.receive_nowait()
    with pytest.raises(ValueError, match="max_bytes"):
        far.receive_nowait(0)


async def test_receive_nowait_makes_room_for_a_writer_that_waits() -> None:
    near, far = open_virtual_connection_pair(buffer_index=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.send_all, b"x" * 200)
        await trio.testing.wait_all_tasks_blocked()
        assert len(far.receive_nowait()) == 128
    assert far.receive_nowait() == b"x" * 72


async def test_receive_nowait_leaves_a_task_that_waits_in_peace() -> None:
    near, far = open_virtual_connection_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(far.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        near.send_nowait(b"its own")
        with pytest.raises(trio.BusyResourceError):
            far.receive_nowait()


@pytest.mark.parametrize("news", ["bytes", "end of input", "close", "abort", "bytes in pieces"])
async def test_watch_input_tells_once_of_what_can_be_received(news: str) -> None:
    near, far = open_virtual_connection_pair(buffer_index=0)
    told: list[str] = []
    far.watch_input(lambda: told.append("news"))
    assert not told
    match news:
        case "bytes":
            await near.send_all(b"one")
        case "end of input":
            await near.send_eof()
        case "close":
            near.close()
        case "abort":
            near.abort("enough")
        case _:
            near.send_nowait(b"one")
            near.send_nowait(b"two")
    assert told == ["news"]
    if news in ("bytes", "bytes in pieces"):
        far.receive_nowait()
        await near.send_all(b"after that")
        assert told == ["news"]


async def test_watch_input_tells_at_once_of_what_is_there_already() -> None:
    near, far = open_virtual_connection_pair()
    told: list[str] = []
    await near.send_all(b"here")
    far.watch_input(lambda: told.append("bytes"))
    far.receive_nowait(1)
    far.watch_input(lambda: told.append("the rest"))
    far.receive_nowait()
    far.watch_input(lambda: told.append("never"))
    far.watch_input(None)
    await near.send_eof()
    far.watch_input(lambda: told.append("end"))
    assert told == ["bytes", "the rest", "end"]


async def test_watch_input_waits_for_the_water_mark() -> None:
    near, far = open_virtual_connection_pair(buffer_water_mark=100)
    told: list[str] = []
    near.watch_input(lambda: told.append("ripe"))
    await far.send_all(b"x" * 99)
    assert not told
    await far.send_all(b"x")
    assert told == ["ripe"]


async def test_watch_input_of_an_end_that_is_closed_says_nothing_more() -> None:
    near, far = open_virtual_connection_pair()
    told: list[str] = []
    far.watch_input(lambda: told.append("news"))
    far.close()
    with pytest.raises(trio.BrokenResourceError):
        await near.send_all(b"x")
    near.abort("late")
    assert not told


async def test_watch_peer_on_an_end_that_is_closed_itself_waits_for_the_peer() -> None:
    near, far = open_virtual_connection_pair()
    told: list[str] = []
    near.close()
    near.watch_peer(told.append)
    assert not told
    far.abort("enough")
    assert told == ["enough"]
    near.watch_peer(told.append)
    assert told == ["enough", "enough"]


async def test_watch_input_is_not_told_of_ones_own_abort() -> None:
    near, _ = open_virtual_connection_pair()
    told: list[str] = []
    near.watch_input(lambda: told.append("news"))
    near.abort("enough")
    assert not told


async def test_a_long_write_breaks_when_whoever_is_told_of_it_aborts() -> None:
    near, far = open_virtual_connection_pair(buffer_index=0)

    def end() -> None:
        far.receive_nowait()
        far.abort("enough")

    far.watch_input(end)
    with pytest.raises(trio.BrokenResourceError, match="enough"):
        await near.send_all(b"y" * 1000)


async def test_what_is_dropped_while_a_reader_takes_it_is_not_counted_twice() -> None:
    near, far = open_virtual_connection_pair()
    await near.send_all(b"1234567")
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await far.receive_some()

        nursery.start_soon(read)
        await trio.lowlevel.checkpoint()
        near.abort("enough")
    assert far.statistics().receiving.unread == 0


# --------------------------------------------------------------------------------------------------------------------- breaking off


@pytest.mark.parametrize("size", [0, 5, 32768])
async def test_connection_that_is_broken_off_gives_what_was_written_and_then_fails(size: int) -> None:
    near, far = open_virtual_connection_pair()
    if size:
        await far.send_all(bytes(size))
    far.break_off("the writer failed")
    left = size
    while left:
        left -= len(await near.receive_some(1000))
    with pytest.raises(trio.BrokenResourceError, match="the writer failed"):
        await near.receive_some(1000)
    with pytest.raises(trio.BrokenResourceError):
        near.receive_nowait()
    with pytest.raises(trio.BrokenResourceError):
        await near.send_all(b"x")


async def test_reader_that_waits_is_told_of_a_break() -> None:
    near, far = open_virtual_connection_pair()
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(trio.BrokenResourceError, match="gone"):
                await near.receive_some()

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        far.break_off("gone")
        far.break_off("again")
        far.abort("too late")


async def test_break_after_an_end_of_input_is_none() -> None:
    near, far = open_virtual_connection_pair()
    await far.send_all(b"all")
    await far.send_eof()
    far.break_off("later")
    assert await near.receive_some() == b"all"
    assert await near.receive_some() == b""
