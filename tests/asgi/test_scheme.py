"""Applications by name: `to = "asgi:package.module:app"`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.asgi._stand import GET
from trio_tsconnect import ConfigError, ProxyConfig, RemapRule, open_proxy
from trio_tsconnect.asgi import load_application
from trio_tsconnect.config import register_origin_scheme
from trio_tsconnect.testing import exchange

MODULE = """
import asyncio, sys

lives = []

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        lives.append(await receive())
        await send({"type": "lifespan.startup.complete"})
        lives.append(await receive())
        return
    try:
        asyncio.get_running_loop()
        loop = b"asyncio"
    except RuntimeError:
        loop = b"trio"
    host = dict(scope["headers"])[b"host"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%s for %s%s" % (loop, host, scope["path"].encode())})

class inner:
    app = app

def make():
    return app

number = 3
"""


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "some_shop.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "some_shop"
    sys.modules.pop("some_shop", None)


async def ask(config: ProxyConfig, request: bytes = GET) -> bytes:
    async with open_proxy(config) as proxy, proxy.connect() as client:
        return (await exchange(client, request)).body


@pytest.mark.parametrize(("scheme", "loop"), [("asgi", b"asyncio"), ("asgi+trio", b"trio"), ("ASGI", b"asyncio")])
async def test_rule_sends_requests_to_an_application(application: str, scheme: str, loop: bytes) -> None:
    config = ProxyConfig(remap=(RemapRule("//site.example/shop/", f"{scheme}:some_shop:app"),))
    # it sees the client's host, for it has no name of its own, and the path below the rule's
    assert await ask(config, b"GET /shop/x HTTP/1.1\r\nHost: site.example\r\n\r\n") == loop + b" for site.example/x"


async def test_rules_to_one_application_share_its_life(application: str) -> None:
    rules = tuple(RemapRule(f"/{name}/", "asgi+trio:some_shop:app") for name in "ab")
    async with open_proxy(ProxyConfig(remap=rules)) as proxy, proxy.connect() as client:
        requests = b"".join(b"GET /%c/ HTTP/1.1\r\nHost: x\r\n\r\n" % name for name in b"ab")
        await exchange(client, requests, count=2)
    assert [message["type"] for message in sys.modules["some_shop"].lives] == ["lifespan.startup", "lifespan.shutdown"]


async def test_configuration_file_names_an_application(application: str, tmp_path: Path) -> None:
    (tmp_path / "proxy.toml").write_text('[[remap]]\nfrom = "/"\nto = "asgi:some_shop:app"\n')
    assert await ask(ProxyConfig.from_toml(tmp_path / "proxy.toml")) == b"asyncio for site.example/"


@pytest.mark.parametrize("name", ["app", "inner.app", "make()"])
def test_name_leads_to_the_application(application: str, name: str) -> None:
    assert load_application(f"some_shop:{name}") is sys.modules["some_shop"].app


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("some_shop", "is not the name of an application"),
        ("some_shop:app:x", "is not the name of an application"),
        ("some shop:app", "is not the name of an application"),
        ("no_such_shop:app", 'cannot import "no_such_shop": No module named'),
        ("some_shop:ap", 'has no "ap"'),
        ("some_shop:number", "is not callable"),
    ],
)
def test_name_that_leads_nowhere_says_where_it_ends(application: str, name: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        load_application(name)
    assert caught.value.key == "to"


def test_rule_is_judged_before_anything_is_imported(application: str) -> None:
    with pytest.raises(ConfigError, match="is not the name of an application"):
        RemapRule("/", "asgi:some_shop")
    RemapRule("/", "asgi:some_shop:app")
    assert "some_shop" not in sys.modules


async def test_file_that_names_no_application_is_refused_with_its_key(application: str, tmp_path: Path) -> None:
    (tmp_path / "proxy.toml").write_text('[[remap]]\nfrom = "/"\nto = "asgi:no_such_shop:app"\n')
    with pytest.raises(ConfigError, match=r"remap\[0\]\.to: cannot import \"no_such_shop\""):
        ProxyConfig.from_toml(tmp_path / "proxy.toml")


async def test_scheme_of_ones_own_can_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    from trio_tsconnect import Plugin, Transaction
    from trio_tsconnect.config import _played

    monkeypatch.setattr(_played, "_registered", dict(_played._registered))

    class Says(Plugin):
        def __init__(self, text: str) -> None:
            self._text = text

        async def post_remap(self, txn: Transaction) -> None:
            txn.respond(200, self._text)

    register_origin_scheme("says", lambda text: lambda: Says(text))
    assert await ask(ProxyConfig(remap=(RemapRule("/", "says:anything at all"),))) == b"anything at all"
