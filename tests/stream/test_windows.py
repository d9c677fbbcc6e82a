"""How a window that is full is used again: in large pieces, whatever the sizes of the writes were."""

from __future__ import annotations

import trio

from trio_tsconnect.stream import open_virtual_connection_pair


async def test_a_full_window_that_was_read_in_crumbs_does_not_stay_one_of_crumbs() -> None:
    near, far = open_virtual_connection_pair()
    size = 1 << 22
    sizes: list[int] = []

    async def write() -> None:
        await near.send_all(b"x" * size)
        await near.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        for _ in range(25):  # each makes room for as much, which the writer fills at once
            sizes.append(len(await far.receive_some(1300)))
        sizes.clear()
        while data := await far.receive_some(65536):
            sizes.append(len(data))
    assert len(sizes) <= size / 32768 + 1


async def test_what_is_gathered_keeps_its_order() -> None:
    near, far = open_virtual_connection_pair(buffer_index=0)
    text = bytes(range(256)) * 40

    async def write() -> None:
        for start in range(0, len(text), 7):
            await near.send_all(text[start : start + 7])
        await near.aclose()

    received = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        for size in [1, 5, 100, 3, 64, 1000] * 10_000:
            data = await far.receive_some(size)
            assert len(data) <= size
            received += data
            if not data:
                break
    assert received == text
