"""The chunked coding (RFC 9112 §7.1): what is taken for a chunk, what is refused, and that it does not matter how the bytes arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_tsconnect.message import BadRequest, BadResponse
from trio_tsconnect.stream import HeadLimits
from trio_tsconnect.stream._chunked import ChunkedReader


def read(data: bytes, step: int | None = None, limits: HeadLimits | None = None) -> tuple[bytes, bytes, bytes]:
    """Content, trailer section and what is left, from bytes that arrive `step` at a time."""
    reader = ChunkedReader(limits or HeadLimits(), BadRequest)
    buffer, content = bytearray(), bytearray()
    step = step or len(data)
    for start in range(0, len(data), step):
        buffer += data[start : start + step]
        while piece := reader.next_piece(buffer):
            content += piece
        if piece == b"":
            return bytes(content), reader.trailer_section, bytes(buffer) + data[start + step :]
    raise EOFError(bytes(content))


@pytest.mark.parametrize("step", [None, 1, 2, 3])
@pytest.mark.parametrize(
    ("data", "content", "trailers"),
    [
        (b"0\r\n\r\n", b"", b"\r\n"),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello", b"\r\n"),
        (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world", b"\r\n"),
        (b"A\r\n0123456789\r\na\r\n0123456789\r\n000\r\n\r\n", b"0123456789" * 2, b"\r\n"),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n", b"\r\n"),
        (b"5;a\r\nhello\r\n0;b=c\r\n\r\n", b"hello", b"\r\n"),
        (b'5 ; a = "q\\"; \xe9" ;b=t\r\nhello\r\n0\r\n\r\n', b"hello", b"\r\n"),
        (b"1\r\nx\r\n0\r\nA: b\r\nC: d\r\n\r\n", b"x", b"A: b\r\nC: d\r\n\r\n"),
        (b"0000000000000001\r\nx\r\n0\r\n\r\n", b"x", b"\r\n"),
    ],
)
def test_rfc_9112_7_1_what_a_chunked_body_is(data: bytes, content: bytes, trailers: bytes, step: int | None) -> None:
    assert read(data + b"GET /", step) == (content, trailers, b"GET /")


@pytest.mark.parametrize("step", [None, 1])
@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"x\r\n",
        b"-1\r\nx",
        b"+1\r\nx",
        b"0x1\r\nx",
        b"1_0\r\nx",
        b" 1\r\nx",
        b"1 \r\nx",
        b"1\t\r\nx",
        b"1\nx",
        b"1\r\r\nx",
        b"1\r\nx\n0\r\n\r\n",
        b"1\r\nxy\r\n",
        b"1\r\nx\rz",
        b"1;\r\nx",
        b"1;a=\r\nx",
        b'1;a="b\r\nx',
        b"1;a b\r\nx",
        b"1;a\x00\r\nx",
        b"1;a=\n\r\nx",
        b"10000000000000000\r\nx",
        b"8000000000000000\r\nx",
        b"1" + b"\x00" + b"\r\nx",
        b"\xef\xbc\x91\r\nx",
        b"1;" + b"a" * 1100 + b"\r\n",
        b"1" * 2000,
    ],
)
def test_rfc_9112_7_1_what_is_no_chunk_is_refused(data: bytes, step: int | None) -> None:
    with pytest.raises(BadRequest) as caught:
        read(data, step)
    assert (caught.value.cause, caught.value.status) == ("bad_chunk", 400)


def test_the_error_is_the_one_of_the_side_that_is_read() -> None:
    with pytest.raises(BadResponse) as caught:
        ChunkedReader(HeadLimits(), BadResponse).next_piece(bytearray(b"x\r\n"))
    assert caught.value.status == 502


def test_chunk_extensions_are_bounded_over_the_whole_body() -> None:
    with pytest.raises(BadRequest) as caught:
        read(b"".join(b"1;%b\r\nx\r\n" % (b"a" * 1000) for _ in range(17)))
    assert caught.value.cause == "bad_chunk"


@pytest.mark.parametrize("step", [None, 1])
@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
def test_a_trailer_section_is_bounded_however_it_arrives(step: int | None, end: bytes) -> None:
    limits = HeadLimits(head=100)
    assert read(b"0\r\na: " + b"b" * 50 + b"\r\n\r\n", step, limits)[1]
    with pytest.raises(BadRequest) as caught:
        read(b"0\r\na: " + b"b" * 200 + end, step, limits)
    assert (caught.value.cause, caught.value.status) == ("head_too_large", 431)


def test_content_is_handed_on_before_its_chunk_has_ended() -> None:
    reader = ChunkedReader(HeadLimits(), BadRequest)
    buffer = bytearray(b"ffff\r\nabc")
    assert reader.next_piece(buffer) == b"abc"
    assert not buffer
    assert reader.next_piece(buffer) is None


def test_after_the_end_it_only_says_that_it_is_the_end() -> None:
    reader = ChunkedReader(HeadLimits(), BadRequest)
    buffer = bytearray(b"0\r\n\r\nmore")
    assert reader.next_piece(buffer) == b""
    assert reader.next_piece(buffer) == b""
    assert buffer == b"more"


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=30), st.integers(1, 10_000))
def test_any_content_in_any_chunks_in_any_pieces_is_read_as_it_was(chunks: list[bytes], step: int) -> None:
    data = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    assert read(data, step) == (b"".join(chunks), b"\r\n", b"")


@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(st.sampled_from([b"0", b"1", b"a", b";", b"\r", b"\n", b"\r\n", b" ", b"=", b'"', b":"])).map(b"".join),
    ),
    st.integers(1, 20),
)
def test_whatever_comes_the_verdict_does_not_depend_on_how_it_comes(data: bytes, step: int) -> None:
    def verdict(step: int | None) -> object:
        try:
            return read(data, step)
        except EOFError as exc:
            return exc.args
        except BadRequest as exc:
            return exc.cause

    if data:
        assert verdict(step) == verdict(None)


def test_small_chunks_come_together_and_a_bound_says_how_many() -> None:
    """A client that sends a byte a chunk costs a step for each; what is done with a piece is done for hundreds."""
    reader = ChunkedReader(HeadLimits(), BadRequest)
    buffer = bytearray(b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n")
    sizes = []
    while piece := reader.next_piece(buffer):
        sizes.append(len(piece))
    assert piece == b""
    assert sizes == [256, 256, 256, 232]


def test_what_is_good_comes_before_the_chunk_that_is_not() -> None:
    reader = ChunkedReader(HeadLimits(), BadRequest)
    buffer = bytearray(b"1\r\nx\r\n2\r\nyz\r\nnonsense\r\n")
    assert reader.next_piece(buffer) == b"xyz"
    for _ in range(2):
        with pytest.raises(BadRequest):
            reader.next_piece(buffer)
