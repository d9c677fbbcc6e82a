"""Compressed bodies, taken apart for a transform: whatever the pieces are, within a bound, and refused by name."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.abc import Clock

from trio_tsconnect import Plugin, Transaction
from trio_tsconnect.plugins import CODINGS, Decode, UnknownCoding, _codings, decode_response

from ._kit import open_kit


def bare(data: bytes) -> bytes:
    machine = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return machine.compress(data) + machine.flush()


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "X-GZip": lambda data: gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :]),
    "deflate": zlib.compress,
    "identity": bytes,
}


def library(name: str, found: ModuleType | None) -> ModuleType:
    assert found is not None, f"the library for {name} comes with the extra decode"
    return found


brotli = library("br", _codings.brotli)
zstd = library("zstd", _codings.zstd)
ENCODERS["br"] = brotli.compress
ENCODERS["ZSTD"] = zstd.compress
COMPRESSING = sorted({name.lower() for name in ENCODERS} - {"identity"})


def encode(coding: str, content: bytes) -> bytes:
    return {name.lower(): encoder for name, encoder in ENCODERS.items()}[coding](content)


@given(st.sampled_from(sorted(ENCODERS)), st.binary(max_size=300), st.data())
def test_the_pieces_do_not_matter(coding: str, content: bytes, data: st.DataObject) -> None:
    encoded = ENCODERS[coding](content)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(encoded)), max_size=5)))
    decode = Decode(coding)
    pieces = [encoded[a:b] for a, b in zip([0, *cuts], [*cuts, len(encoded)], strict=True)]
    assert b"".join(map(decode.feed, pieces)) + decode.finish() == content


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=4), st.data())
def test_frames_of_zstd_may_follow_each_other(contents: list[bytes], data: st.DataObject) -> None:
    encoded = b"".join(map(zstd.compress, contents))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(encoded)), max_size=5)))
    decode = Decode("zstd")
    pieces = [encoded[a:b] for a, b in zip([0, *cuts], [*cuts, len(encoded)], strict=True)]
    assert b"".join(map(decode.feed, pieces)) + decode.finish() == b"".join(contents)


@pytest.mark.parametrize("coding", ["identity", *COMPRESSING])
def test_without_a_limit_one_piece_may_stand_for_any_number_of_bytes(coding: str) -> None:
    assert Decode(coding).feed(encode(coding, bytes(1_000_000))) == bytes(1_000_000)


@pytest.mark.parametrize("coding", COMPRESSING)
def test_it_may_come_byte_by_byte_within_a_limit_that_it_just_meets(coding: str) -> None:
    content = bytes(range(256)) * 400
    decode = Decode(coding, limit=len(content))
    encoded = encode(coding, content)
    assert b"".join(decode.feed(encoded[at : at + 1]) for at in range(len(encoded))) + decode.finish() == content


def test_deflate_without_its_wrapper_is_taken_too() -> None:
    decode = Decode("deflate")
    assert decode.feed(bare(b"hello" * 100)) + decode.finish() == b"hello" * 100


def test_an_empty_body_is_empty_in_every_coding() -> None:
    assert [Decode(coding).feed(b"") + Decode(coding).finish() for coding in CODINGS] == [b""] * len(CODINGS)


@given(st.sampled_from(["gzip", "deflate", "br", "zstd"]), st.data())
def test_what_is_cut_short_is_told_at_the_end(coding: str, data: st.DataObject) -> None:
    encoded = encode(coding, b"hello")
    decode = Decode(coding)
    decode.feed(encoded[: data.draw(st.integers(1, len(encoded) - 1))])
    with pytest.raises(ValueError, match=f"the {coding} body is truncated"):
        decode.finish()


@pytest.mark.parametrize("coding", COMPRESSING)
def test_what_is_not_in_the_coding_is_told_at_once(coding: str) -> None:
    with pytest.raises(ValueError, match=f"the body is not valid {coding}"):
        Decode(coding).feed(b"\xff hello there")


@given(st.sampled_from(COMPRESSING), st.binary(max_size=200), st.none() | st.integers(0, 1000))
def test_anything_is_decoded_or_is_no_valid_body(coding: str, garbage: bytes, limit: int | None) -> None:
    decode = Decode(coding, limit=limit)
    try:
        decode.feed(garbage)
        decode.finish()
    except ValueError:
        pass


@pytest.mark.parametrize("coding", ["identity", *COMPRESSING])
def test_a_small_piece_that_stands_for_much_is_stopped_at_the_limit(coding: str) -> None:
    encoded = encode(coding, bytes(1_000_000))
    assert len(Decode(coding, limit=1_000_000).feed(encoded)) == 1_000_000
    with pytest.raises(ValueError, match="larger than the limit"):
        Decode(coding, limit=999_999).feed(encoded)


@pytest.mark.parametrize("coding", COMPRESSING)
def test_of_a_bomb_no_more_is_decompressed_than_the_limit_and_one_block(coding: str) -> None:
    """The measure is the memory that Python objects take, not what the decoder says."""
    bomb = encode(coding, bytes(16 << 20))
    decode = Decode(coding, limit=10)
    tracemalloc.start()
    try:
        for _ in range(2):  # nothing is decompressed after the limit either
            with pytest.raises(ValueError, match="larger than the limit"):
                decode.feed(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("coding", COMPRESSING)
def test_a_machine_keeps_to_its_bound(coding: str) -> None:
    machine = _codings.begin(coding)
    assert machine is not None
    assert len(machine.feed(encode(coding, bytes(1_000_000)), 100_000)) - 100_000 in range((32 << 10) if coding == "br" else 1)


def test_a_window_that_would_take_much_memory_is_refused() -> None:
    wide = zstd.compress(bytes(10 << 20), options={zstd.CompressionParameter.window_log: 24})
    with pytest.raises(ValueError, match=r"the body is not valid zstd: .* too much memory"):
        Decode("zstd").feed(wide)


def test_any_other_coding_is_refused_by_its_name() -> None:
    with pytest.raises(
        UnknownCoding, match=r"content coding 'compress', expected one of gzip, x-gzip, deflate, br, zstd, identity$"
    ) as caught:
        Decode("compress")
    assert caught.value.coding == "compress"


@pytest.mark.parametrize(("coding", "library"), [("br", "brotli"), ("zstd", "zstd")])
def test_without_its_library_a_coding_is_refused_by_the_name_of_the_extra(
    coding: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert coding in CODINGS
    monkeypatch.setattr(_codings, library, None)
    assert coding not in _codings.names()
    with pytest.raises(UnknownCoding, match=rf"content coding '{coding}', install the extra: pip install 'trio-tsconnect\[decode\]'"):
        Decode(coding)


def test_a_library_that_is_not_installed_is_none() -> None:
    assert _codings._library("no_such_library") is None


class Shout(Plugin):
    """Reads what the origin says, whatever it is packed in."""

    async def read_response(self, txn: Transaction) -> None:
        decode_response(txn, limit=1000)
        txn.transform_response(self)

    def feed(self, data: bytes) -> bytes:
        return data.upper()

    def finish(self) -> bytes:
        return b"!"


@pytest.mark.parametrize("codings", [("gzip",), ("deflate", "gzip"), ("zstd", "br"), ("identity",), ()])
async def test_a_transform_reads_what_was_compressed(codings: tuple[str, ...], autojump_clock: Clock) -> None:
    body = b"hello"
    for coding in codings:
        body = encode(coding, body)
    async with open_kit(Shout()) as kit:
        headers = [("ETag", '"1"'), ("Accept-Ranges", "bytes"), *(("Content-Encoding", coding) for coding in codings)]
        kit.origins["site.test"].answer("/", body=body, headers=headers)
        reply = await kit.ask("GET /")
    assert reply.body == b"HELLO!"
    if set(codings) - {"identity"}:
        assert reply.headers["ETag"] == 'W/"1"'
        assert not {"content-encoding", "accept-ranges"} & {name.lower() for name in reply.headers}
    else:
        assert reply.headers["ETag"] == '"1"'


async def test_a_coding_that_cannot_be_decoded_fails_the_transaction_by_its_name(autojump_clock: Clock) -> None:
    async with open_kit(Shout()) as kit:
        kit.origins["site.test"].answer("/", body=b"?", headers={"Content-Encoding": "compress"})
        assert (await kit.ask("GET /")).status == 500
    assert "content coding 'compress'" in kit.record().plugin["Shout"]["failed"]["exception"]


class ShoutIfPossible(Shout):
    """Forwards unchanged what it cannot read."""

    async def read_response(self, txn: Transaction) -> None:
        with suppress(UnknownCoding):
            decode_response(txn)


async def test_a_body_of_which_one_coding_cannot_be_decoded_stays_as_it_is(autojump_clock: Clock) -> None:
    body = gzip.compress(b"?")
    async with open_kit(ShoutIfPossible()) as kit:
        kit.origins["site.test"].answer("/", body=body, headers={"Content-Encoding": "compress, gzip"})
        reply = await kit.ask("GET /")
    assert (reply.body, reply.headers["Content-Encoding"]) == (body, "compress, gzip")
