"""exchange(): whole responses in, and a failure that says what did come."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from trio_tsconnect import VirtualConnection, open_virtual_connection_pair
from trio_tsconnect.testing import ExchangeFailed, exchange

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
OK = b"HTTP/1.1 200 Fine\r\nContent-Length: 2\r\n\r\nhi"


@asynccontextmanager
async def server_that_says(answer: bytes, *, then: str = "wait") -> AsyncIterator[VirtualConnection]:
    """A server that reads something, says `answer`, and then waits, closes or resets."""
    ours, theirs = open_virtual_connection_pair()

    async def serve() -> None:
        await theirs.receive_some()
        await theirs.send_all(answer)
        if then == "close":
            await theirs.aclose()
        elif then == "reset":
            await trio.testing.wait_all_tasks_blocked()
            theirs.abort("tired")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield ours
        nursery.cancel_scope.cancel()


async def test_returns_one_response_whole_and_leaves_the_stream_open() -> None:
    async with server_that_says(OK) as stream:
        reply = await exchange(stream, GET)
        assert (reply.status, reply.reason, reply.body, reply.headers["content-length"]) == (200, "Fine", b"hi", "2")
        await stream.send_all(b"more")


async def test_body_may_end_with_the_connection() -> None:
    async with server_that_says(b"HTTP/1.0 200 OK\r\n\r\n" + b'{"a": 1}', then="close") as stream:
        assert (await exchange(stream, GET)).json() == {"a": 1}


async def test_count_returns_a_list_even_of_one() -> None:
    async with server_that_says(OK * 2) as stream:
        assert [reply.text for reply in await exchange(stream, GET * 2, count=2)] == ["hi", "hi"]
    async with server_that_says(OK) as stream:
        assert [reply.text for reply in await exchange(stream, GET, count=1)] == ["hi"]


async def test_methods_are_told_from_the_data_even_where_it_is_not_sound() -> None:
    head = b"HTTP/1.1 400 Bad\r\nContent-Length: 9\r\n\r\n"
    async with server_that_says(OK.replace(b"2", b"0", 2).replace(b"hi", b"").replace(b"000", b"200") + head) as stream:
        post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
        replies = await exchange(stream, post + b"HEAD / HTTP/1.1\r\nA : b\r\n\r\n", count=2)
        assert [(reply.status, reply.body) for reply in replies] == [(200, b""), (400, b"")]


async def test_data_that_is_no_request_at_all_is_sent_all_the_same() -> None:
    async with server_that_says(OK) as stream:
        assert (await exchange(stream, "\x16\x03\x01 what")).status == 200


async def test_response_is_read_while_the_request_is_still_being_written() -> None:
    async with server_that_says(OK) as stream:  # it reads once, and never the rest
        assert (await exchange(stream, GET + b"x" * 1_000_000)).status == 200


@pytest.mark.parametrize(
    ("answer", "then", "words"),
    [
        (b"", "close", "response 1 of 2: the input ended within a head; received: nothing"),
        (OK, "close", f"response 2 of 2: the input ended within a head; received: {OK!r}"),
        (OK + OK[:-1], "close", "response 2 of 2: the input ended within a body; received: "),
        (OK[:-1], "reset", "response 1 of 2: the connection broke (the connection was aborted: tired); received: "),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "wait", "response 1 of 2: The response head is malformed: "),
        (OK * 2 + b"HTTP", "wait", "response 2 of 2: 4 bytes follow it; received: "),
    ],
)
async def test_fails_with_which_response_why_and_what_came(answer: bytes, then: str, words: str) -> None:
    async with server_that_says(answer, then=then) as stream:
        with pytest.raises(ExchangeFailed, match=re.escape(words)):
            await exchange(stream, GET * 2, count=2)


async def test_fails_when_the_response_does_not_come_in_time(autojump_clock) -> None:
    async with server_that_says(OK[:-1]) as stream:
        begun = trio.current_time()
        with pytest.raises(ExchangeFailed, match=r"response 1 of 1: it was not complete within 5 s; received: b'HTTP/1.1 200 Fine"):
            await exchange(stream, GET, timeout=5)
        assert trio.current_time() - begun == 5


async def test_long_answers_are_shown_by_their_ends() -> None:
    async with server_that_says(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 4000 + b"the end", then="close") as stream:
        with pytest.raises(ExchangeFailed) as failed:
            await exchange(stream, GET)
        assert len(str(failed.value)) < 400
        assert str(failed.value).endswith("the end' (4048 bytes)")


async def test_stream_that_is_closed_here_is_told_so() -> None:
    stream, _ = open_virtual_connection_pair()
    await stream.aclose()
    with pytest.raises(ExchangeFailed, match="the stream was closed on this side"):
        await exchange(stream, GET)
