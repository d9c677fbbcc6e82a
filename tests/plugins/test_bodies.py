"""The plugins and helpers that replace bodies: error pages, and JSON bodies as values."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.plugins._kit import open_kit
from trio_tsconnect import AccessRule, ConfigError, Plugin, RemapRule, Transaction
from trio_tsconnect.plugins import ErrorPages, ask_readable, change_request_json, change_response_json

Clock = trio.testing.MockClock


def pages(folder: Path, **options: Any) -> ErrorPages:
    (folder / "gone.html").write_text("<p>$status $reason, no. $transaction, $unknown $5</p>", encoding="utf-8")
    (folder / "sorry.html").write_text("<p>sorry</p>", encoding="utf-8")
    files = {"404": str(folder / "gone.html"), "5xx": str(folder / "sorry.html"), "403": str(folder / "sorry.html")}
    return ErrorPages(ErrorPages.Options(pages=files, **options))


async def test_responses_of_the_proxy_get_pages(autojump_clock: Clock, tmp_path: Path) -> None:
    async with open_kit(pages(tmp_path), access=[AccessRule(action="deny", methods="DELETE"), AccessRule(action="allow")]) as kit:
        kit.origins["site.test"].answer("/dies", fault="die")
        kit.origins["site.test"].answer("/own", 404, "its own page")
        reply = await kit.ask("GET /\nHost: nowhere.test")
        assert (reply.status, reply.headers["content-type"]) == (404, "text/html; charset=utf-8")
        assert reply.text == f"<p>404 Not Found, no. {kit.records[0].transaction}, $unknown $5</p>"
        assert (await kit.ask("GET /dies")).text == "<p>sorry</p>"
        refused = await kit.ask("DELETE /own")
        assert (refused.status, refused.text) == (403, "<p>sorry</p>")
        assert (await kit.ask("GET /own")).text == "its own page"
        assert [record.ended.why for record in kit.records] == ["no_remap_rule", "origin_closed", "access_denied", "complete"]


async def test_responses_of_origins_and_plugins_get_pages_if_it_is_configured(autojump_clock: Clock, tmp_path: Path) -> None:
    class Gone(Plugin):
        async def read_request(self, txn: Transaction) -> None:
            if txn.request.url.path == "/plugin":
                txn.respond(404, "the plugin's", headers={"X-Kept": "1", "Content-Language": "en"})

    for of, texts in (("origin", ["<p>404", "the plugin's"]), ("plugin", ["the origin's", "<p>404"])):
        async with open_kit(Gone(), pages(tmp_path, of=(of,))) as kit:
            kit.origins["site.test"].answer("/origin", 404, "the origin's", headers={"ETag": '"x"', "X-Kept": "1"})
            for path, text in zip(("/origin", "/plugin"), texts, strict=True):
                reply = await kit.ask(f"GET {path}")
                assert (reply.status, reply.headers["x-kept"]) == (404, "1")
                assert reply.text.startswith(text)
                assert ("etag" in reply.headers or "content-language" in reply.headers) is not reply.text.startswith("<p>")


@pytest.mark.parametrize(
    ("pages", "problem"),
    [
        ({}, "a table of statuses and files"),
        ({"200": "x"}, "pages.200: must be a status of 400..599"),
        ({"3xx": "x"}, "pages.3xx: must be a status"),
        ({"404": 5}, "pages.404: must be the path of a file"),
        ({"404": "/no/such/file"}, "pages.404: cannot read /no/such/file"),
    ],
)
def test_pages_that_are_none_are_refused(pages: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        ErrorPages(ErrorPages.Options(pages=pages))


# --- JSON --------------------------------------------------------------------------------------------------------------------------


class Changing(Plugin):
    """Adds to every JSON value, in both directions."""

    def __init__(self, limit: int = 1000) -> None:
        self.limit = limit

    async def read_request(self, txn: Transaction) -> None:
        change_request_json(txn, lambda value: {**value, "via": "proxy"}, limit=self.limit)

    async def read_response(self, txn: Transaction) -> None:
        change_response_json(txn, self._later, limit=self.limit)

    async def _later(self, value: Any) -> Any:
        await trio.sleep(1)
        value["added"] = "ä"
        return value


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("kind", ["application/json", "application/problem+json; charset=utf-8", "Application/JSON"])
@pytest.mark.parametrize("packed", [False, True])
async def test_json_response_is_changed(autojump_clock: Clock, kind: str, packed: bool) -> None:
    body = json.dumps({"a": 1}).encode()
    headers = {"Content-Type": kind, "ETag": '"x"', **({"Content-Encoding": "gzip"} if packed else {})}
    async with open_kit(Changing()) as kit:
        kit.origins["site.test"].answer("/", body=gzip.compress(body) if packed else body, headers=headers)
        for _ in range(2):
            reply = await kit.ask("GET /")
            assert reply.json() == {"a": 1, "added": "ä"}
            assert not {"etag", "content-encoding"} & {name.lower() for name in reply.headers}
        assert (await kit.ask("HEAD /")).body == b""


async def test_json_request_is_changed(autojump_clock: Clock) -> None:
    async with open_kit(Changing()) as kit:
        origin = kit.origins["site.test"]
        origin.answer("/")
        await kit.ask("POST /\nContent-Type: application/json", body=b'{"a": 1}')
        assert json.loads(await origin.requests[0].read()) == {"a": 1, "via": "proxy"}
        await kit.ask("POST /\nContent-Type: text/plain", body=b'{"a": 1}')
        assert await origin.requests[1].read() == b'{"a": 1}'


@pytest.mark.parametrize("body", [b"{" * 10, b"[1]", b"", b'{"a": "' + bytes(2000) + b'"}', b"\xff"])
async def test_json_that_cannot_be_changed_is_not_forwarded(autojump_clock: Clock, body: bytes) -> None:
    """Not JSON, no object, none, too large, no UTF-8. Nothing of it was sent, so the client gets a whole response."""
    async with open_kit(Changing()) as kit:
        kit.origins["site.test"].answer("/", body=body, headers=JSON)
        kit.origins["site.test"].answer("/fine", body=b"{}", headers=JSON)
        if body:
            assert (await kit.ask("GET /")).status == 500
            assert kit.records[0].ended.by == "plugin"
            assert (await kit.ask("POST /fine\nContent-Type: application/json", body=body)).status == 500
        assert (await kit.ask("GET /fine")).status == 200


async def test_empty_body_stays_empty_and_a_part_is_not_forwarded(autojump_clock: Clock) -> None:
    async with open_kit(Changing()) as kit:
        kit.origins["site.test"].answer("/empty", headers=JSON)
        kit.origins["site.test"].answer("/part", 206, b'{"a":', headers={**JSON, "Content-Range": "bytes 0-4/9"})
        assert ((await kit.ask("GET /empty")).status, (await kit.ask("GET /empty")).body) == (200, b"")
        assert (await kit.ask("GET /part")).status == 500


async def test_origin_is_asked_for_what_can_be_read(autojump_clock: Clock) -> None:
    class Reads(Plugin):
        async def send_request(self, txn: Transaction) -> None:
            ask_readable(txn)

    async with open_kit(Reads()) as kit:
        origin = kit.origins["site.test"]
        origin.answer("/")
        await kit.ask("GET /\nRange: bytes=0-4\nIf-Range: x\nAccept-Encoding: gzip;q=0.5, compress, deflate")
        await kit.ask("GET /\nAccept-Encoding: compress")
        await kit.ask("GET /")
        asked = [request.headers for request in origin.requests]
        assert [fields.get("accept-encoding") for fields in asked] == ["gzip;q=0.5, deflate", "identity", None]
        assert not {"range", "if-range"} & {name.lower() for name in asked[0]}


async def test_pages_of_the_origin_and_transforms_of_its_body_go_together(autojump_clock: Clock, tmp_path: Path) -> None:
    async with open_kit(Changing(), pages(tmp_path, of=("origin",))) as kit:
        kit.origins["site.test"].answer("/", 500, b"{}", headers=JSON)
        reply = await kit.ask("GET /")
    assert (reply.status, reply.text) == (500, "<p>sorry</p>")


async def test_other_bodies_are_not_touched(autojump_clock: Clock) -> None:
    async with open_kit(Changing(limit=1)) as kit:
        kit.origins["site.test"].answer("/", body=b'{"a": 1}', headers={"Content-Type": "text/html", "ETag": '"x"'})
        reply = await kit.ask("GET /")
        assert (reply.body, reply.headers["etag"]) == (b'{"a": 1}', '"x"')


async def test_json_of_a_rule_and_of_an_answer(autojump_clock: Clock) -> None:
    class Answers(Plugin):
        async def post_remap(self, txn: Transaction) -> None:
            txn.transform_response(_upper)
            txn.respond(200, "text")

    async def _upper(body: Any) -> Any:
        async for piece in body:
            yield piece.upper()

    async with open_kit(remap=[RemapRule("/", "http://site.test/", plugins=[Answers()])]) as kit:
        assert (await kit.ask("GET /")).body == b"TEXT"
