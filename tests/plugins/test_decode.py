"""Compressed bodies, taken apart for a transform: whatever the pieces are, within a bound, and refused by name."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.abc import Clock

from trio_tsconnect import Plugin, Transaction
from trio_tsconnect.plugins import Decode, UnknownCoding, decode_response

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


@given(st.sampled_from(sorted(ENCODERS)), st.binary(max_size=300), st.data())
def test_the_pieces_do_not_matter(coding: str, content: bytes, data: st.DataObject) -> None:
    encoded = ENCODERS[coding](content)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(encoded)), max_size=5)))
    decode = Decode(coding)
    pieces = [encoded[a:b] for a, b in zip([0, *cuts], [*cuts, len(encoded)], strict=True)]
    assert b"".join(map(decode.feed, pieces)) + decode.finish() == content


def test_deflate_without_its_wrapper_is_taken_too() -> None:
    decode = Decode("deflate")
    assert decode.feed(bare(b"hello" * 100)) + decode.finish() == b"hello" * 100


def test_an_empty_body_is_empty_in_every_coding() -> None:
    assert [Decode(coding).feed(b"") + Decode(coding).finish() for coding in ("gzip", "deflate", "identity")] == [b"", b"", b""]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_what_is_cut_short_is_told_at_the_end(coding: str) -> None:
    decode = Decode(coding)
    decode.feed(ENCODERS[coding](b"hello")[:-3])
    with pytest.raises(ValueError, match=f"the {coding} body is truncated"):
        decode.finish()


def test_what_is_not_in_the_coding_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="the body is not valid gzip"):
        Decode("gzip").feed(b"hello there")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "identity"])
def test_a_small_piece_that_stands_for_much_is_stopped_at_the_limit(coding: str) -> None:
    encoded = ENCODERS[coding](bytes(1_000_000))
    assert len(Decode(coding, limit=1_000_000).feed(encoded)) == 1_000_000
    with pytest.raises(ValueError, match="larger than the limit"):
        Decode(coding, limit=999_999).feed(encoded)


def test_any_other_coding_is_refused_by_its_name() -> None:
    with pytest.raises(UnknownCoding, match="cannot decode the content coding 'br'") as caught:
        Decode("br")
    assert caught.value.coding == "br"


class Shout(Plugin):
    """Reads what the origin says, whatever it is packed in."""

    async def read_response(self, txn: Transaction) -> None:
        decode_response(txn, limit=1000)
        txn.transform_response(self)

    def feed(self, data: bytes) -> bytes:
        return data.upper()

    def finish(self) -> bytes:
        return b"!"


@pytest.mark.parametrize("codings", [("gzip",), ("deflate", "gzip"), ("identity",), ()])
async def test_a_transform_reads_what_was_compressed(codings: tuple[str, ...], autojump_clock: Clock) -> None:
    body = b"hello"
    for coding in codings:
        body = ENCODERS[coding](body)
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
        kit.origins["site.test"].answer("/", body=b"?", headers={"Content-Encoding": "br"})
        assert (await kit.ask("GET /")).status == 500
    assert "content coding 'br'" in kit.record().plugin["Shout"]["failed"]["exception"]
