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


OF_THE_OLD_BODY = {
    "Content-Digest": "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:",
    "Repr-Digest": "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:",
    "Digest": "sha-256=X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=",
    "Content-MD5": "Q2hlY2sgSW50ZWdyaXR5IQ==",
    "Content-Disposition": "attachment; filename=x.zip",
    "Content-Encoding": "identity",
    "Content-Language": "en",
    "Content-Location": "/elsewhere",
    "ETag": '"x"',
    "Last-Modified": "Sun, 06 Nov 1994 08:49:37 GMT",
    "Accept-Ranges": "bytes",
}


async def test_page_has_no_field_of_the_body_that_it_replaces(autojump_clock: Clock, tmp_path: Path) -> None:
    async with open_kit(pages(tmp_path, of="origin")) as kit:
        kit.origins["site.test"].answer("/", 404, "old", headers={**OF_THE_OLD_BODY, "Link": "</>", "Retry-After": "5"})
        reply = await kit.ask("GET /")
    assert reply.text.startswith("<p>404")
    assert not {name.lower() for name in OF_THE_OLD_BODY} & {name.lower() for name in reply.headers}
    assert (reply.headers["link"], reply.headers["retry-after"]) == ("</>", "5")


@pytest.mark.parametrize(
    ("content_type", "phrase"),
    [("text/html", "I&#x27;m a Teapot"), ("application/xhtml+xml", "I&#x27;m a Teapot"), ("text/plain", "I'm a Teapot")],
)
async def test_reason_in_a_page_is_the_standard_one_and_is_escaped(
    autojump_clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content_type: str, phrase: str
) -> None:
    """What an origin wrote as its reason does not get into the page. No standard phrase has a character of HTML: one is put in its place."""

    class Scripts(Plugin):
        async def read_response(self, txn: Transaction) -> None:
            txn.response.reason = "<script>alert(1)</script>"

    async with open_kit(Scripts(), pages(tmp_path, of="origin", content_type=content_type)) as kit:
        kit.origins["site.test"].answer("/", 404)
        assert (await kit.ask("GET /")).text.startswith("<p>404 Not Found, no.")
        monkeypatch.setattr("trio_tsconnect.plugins._error_pages.reason_phrase", lambda status: "I'm a Teapot")
        assert (await kit.ask("GET /")).text.startswith(f"<p>404 {phrase}, no.")


async def test_page_that_another_plugin_has_set_stays(autojump_clock: Clock, tmp_path: Path) -> None:
    """The response that a plugin has made in an earlier hook is replaced; the one that was made for the response is not."""

    class Answers(Plugin):
        async def read_request(self, txn: Transaction) -> None:
            if txn.request.url.path == "/early":
                txn.respond(404, "early")

        async def read_response(self, txn: Transaction) -> None:
            if txn.request.url.path == "/late":
                txn.respond(404, "late")

    (tmp_path / "other.html").write_text("other", encoding="utf-8")
    other = ErrorPages(ErrorPages.Options(pages={"4xx": str(tmp_path / "other.html")}, of=("plugin",)))
    async with open_kit(Answers(), pages(tmp_path), other) as kit:
        kit.origins["site.test"].answer("/late")
        lost = await kit.ask("GET /\nHost: nowhere.test")
        assert (lost.status, lost.text[:6]) == (404, "<p>404")
        for path in ("/early", "/late"):
            reply = await kit.ask(f"GET {path}")
            assert (reply.status, reply.text) == (404, "other")
        assert [record.plugin for record in kit.records] == [{}] * 3


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


NO_JSON = [b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": 1e999}']


@pytest.mark.parametrize("body", [b"{" * 10, b"[1]", b"", b'{"a": "' + bytes(2000) + b'"}', b"\xff", *NO_JSON])
async def test_json_that_cannot_be_changed_is_not_forwarded(autojump_clock: Clock, body: bytes) -> None:
    """Not JSON, no object, none, too large, no UTF-8, no number of JSON. Nothing of it was sent, so the client gets a whole response."""
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


async def test_part_that_happens_to_be_json_is_not_forwarded(autojump_clock: Clock) -> None:
    async with open_kit(Changing()) as kit:
        origin = kit.origins["site.test"]
        origin.answer("/part", 206, b'{"a": 1}', headers={**JSON, "Content-Range": "bytes 10-17/100"})
        origin.answer("/text", 206, b"text", headers={"Content-Type": "text/plain", "Content-Range": "bytes 10-13/100"})
        assert (await kit.ask("GET /part")).status == 500
        failed = kit.records[0].plugin["Changing"]["failed"]
        assert failed["hook"] == "read_response"
        assert failed["exception"] == "ValueError: a part (206) of a JSON body cannot be changed: call ask_readable() in send_request"
        assert ((await kit.ask("GET /text")).status, (await kit.ask("GET /text")).text) == (206, "text")


async def test_lone_surrogate_is_written_back_as_it_was_escaped(autojump_clock: Clock) -> None:
    async with open_kit(Changing()) as kit:
        origin = kit.origins["site.test"]
        origin.answer("/", body=rb'{"a":"\ud800"}', headers=JSON)
        reply = await kit.ask("POST /\nContent-Type: application/json", body=rb'{"a":"\ud800"}')
        assert (reply.status, reply.body) == (200, rb'{"a":"\ud800","added":"\u00e4"}')
        assert await origin.requests[0].read() == rb'{"a":"\ud800","via":"proxy"}'


@pytest.mark.parametrize("kind", ["application/json-seq", "application/geo+json-seq", "application/jsonml", "application/json.x"])
async def test_types_that_begin_like_json_are_not_touched(autojump_clock: Clock, kind: str) -> None:
    body = b'\x1e{"a":1}\n'
    async with open_kit(Changing()) as kit:
        origin = kit.origins["site.test"]
        origin.answer("/", body=body, headers={"Content-Type": kind})
        reply = await kit.ask(f"POST /\nContent-Type: {kind}", body=body)
        assert (reply.status, reply.body, await origin.requests[0].read()) == (200, body, body)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("application/json; charset=utf-16", "application/json"),
        ("application/json ; charset=utf-16", "application/json"),
        ('application/json;Charset="UTF-16"; v=1', "application/json; v=1"),
        ('application/a+json; p="x; charset=y"; charset=utf-16', 'application/a+json; p="x; charset=y"'),
    ],
)
async def test_changed_json_is_utf_8_and_says_nothing_else(autojump_clock: Clock, before: str, after: str) -> None:
    body = '{"a":"ö"}'.encode("utf-16")
    async with open_kit(Changing()) as kit:
        origin = kit.origins["site.test"]
        origin.answer("/", body=body, headers={"Content-Type": before})
        reply = await kit.ask(f"POST /\nContent-Type: {before}", body=body)
        assert (reply.headers["content-type"], reply.body.decode()) == (after, '{"a":"ö","added":"ä"}')
        assert origin.requests[0].headers["content-type"] == after
        assert (await origin.requests[0].read()).decode() == '{"a":"ö","via":"proxy"}'


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
