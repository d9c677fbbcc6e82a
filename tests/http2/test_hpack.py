"""RFC 7541, as far as it is ours: heads that are kept, and tables that stay small."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder, HPACKError
from hypothesis import given
from hypothesis import strategies as st

from trio_tsconnect.http2._hpack import MAX_TABLE, FieldDecoder, SmallEncoder

names = st.sampled_from([b":status", b"date", b"x-a", b"x-b", b"content-type"])
values = st.sampled_from([b"200", b"", b"a", b"b" * 50, b"c" * 1500, b"text/plain"])
heads = st.lists(st.lists(st.tuples(names, values), min_size=1, max_size=5), max_size=30)


@given(heads, st.lists(st.tuples(st.integers(0, 29), st.sampled_from([0, 100, 4096, 65536])), max_size=4))
def test_what_is_encoded_is_read_back_whatever_the_table_does(
    fields: list[list[tuple[bytes, bytes]]], sizes: list[tuple[int, int]]
) -> None:
    encoder, decoder = SmallEncoder(), Decoder()
    decoder.max_allowed_table_size = 65536
    for turn, head in enumerate(fields):
        for at, size in sizes:
            if at == turn:
                encoder.header_table_size = size
        for _ in range(3):
            assert [tuple(field) for field in decoder.decode(encoder.encode(head), raw=True)] == head


@given(heads, st.lists(st.tuples(st.integers(0, 29), st.sampled_from([0, 100, 4096])), max_size=4))
def test_what_a_client_encodes_is_read_whatever_the_table_does(
    fields: list[list[tuple[bytes, bytes]]], sizes: list[tuple[int, int]]
) -> None:
    encoder, decoder = Encoder(), FieldDecoder(1 << 20)
    for turn, head in enumerate(fields):
        for at, size in sizes:
            if at == turn and size != encoder.header_table_size:  # the library forgets a change when it is told it again
                encoder.header_table_size = size
        for _ in range(3):
            decoder.decode(encoder.encode(head))
            assert list(decoder.fields) == head


def test_table_is_never_larger_than_every_peers() -> None:
    encoder = SmallEncoder()
    encoder.header_table_size = 1 << 30
    assert encoder.header_table_size == MAX_TABLE
    for turn in range(1000):
        encoder.encode([(b"x-turn", b"%d" % turn * 50)])
    assert sum(len(name) + len(value) + 32 for name, value in encoder.header_table.dynamic_entries) <= MAX_TABLE


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ([100, 50, 4096], "3f13 3fe11f"),
        ([0, 4096], "20 3fe11f"),
        ([4000, 100], "3f45"),
        ([100, 50, 2000, 60, 70], "3f13 3f27"),
    ],
)
def test_of_all_changes_of_the_table_the_smallest_and_the_last_are_told(sizes: list[int], told: str) -> None:
    """RFC 7541 §4.2."""
    encoder = SmallEncoder()
    for size in sizes:
        encoder.header_table_size = size
    assert encoder.encode([(b":status", b"200")]) == bytes.fromhex(told) + b"\x88"
    assert encoder.encode([(b":status", b"200")]) == b"\x88"


def test_heads_that_repeat_are_the_same_few_bytes() -> None:
    encoder = SmallEncoder()
    head = [(b":status", b"200"), (b"x-custom", b"value")]
    first, second, third = (encoder.encode(head) for _ in range(3))
    assert len(first) > len(second) == 2
    assert second == third


def test_head_that_was_kept_is_forgotten_when_its_table_shrinks() -> None:
    decoder = FieldDecoder(1 << 20)
    decoder.decode(b"\x40\x01a\x01b")  # a literal that enters the table, as entry 62
    for _ in range(2):
        decoder.decode(b"\xbe")
        assert list(decoder.fields) == [(b"a", b"b")]
    decoder.decode(b"\x20\x82")  # the size of the table is 0 from here on
    with pytest.raises(HPACKError):
        decoder.decode(b"\xbe")


def test_heads_that_are_kept_are_bounded_by_what_they_stand_for() -> None:
    """An index of one byte stands for a field of any size."""
    decoder = FieldDecoder(1 << 20)
    decoder.decode(b"\x40\x01a\x7f\xf1\x1b" + bytes([0x61]) * 3696)  # a literal of 3.7 kB, as entry 62
    for count in range(1, 65):
        decoder.decode(b"\xbe" * 10 + b"\x82" * count)
    assert sum(len(name) + len(value) for fields in decoder._kept.values() for name, value in fields) <= 65536
    assert len(decoder._kept) == 1
