"""A refusal stands: access rules, auth_request and rate_limit, against a plugin that answers in any hook, before and after them in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio

from tests.plugins._kit import Kit, open_kit
from trio_tsconnect import AccessRule, Guard, Plugin, RemapRule, Transaction
from trio_tsconnect.plugins import AuthRequest, RateLimit

Clock = trio.testing.MockClock
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\ncontent"
DENY = (AccessRule(action="deny", methods="GET"),)


async def play(stream: trio.abc.HalfCloseableStream) -> None:
    await stream.receive_some()
    await stream.send_all(OK)


def respond(txn: Transaction) -> None:
    txn.respond(200, "content")


def intercept(txn: Transaction) -> None:
    txn.intercept(play)


def assign(txn: Transaction) -> None:
    txn.response.status = 200


def answering(hook: str, act: Callable[[Transaction], None]) -> Plugin:
    """Answers every request of a client in one hook."""

    async def method(_self: Plugin, txn: Transaction) -> None:
        if not txn.internal:
            act(txn)

    method.__name__ = hook
    plugin: Plugin = type("Answering", (Plugin,), {hook: method})()
    return plugin


ANSWERS = [
    *((hook, respond) for hook in ("read_request", "pre_remap", "post_remap", "send_request", "read_response", "send_response")),
    *((hook, intercept) for hook in ("read_request", "pre_remap", "post_remap")),
    ("send_response", assign),
]


class Refusing(Guard):
    """The least that a guard can be."""

    async def judge(self, txn: Transaction) -> None:
        if not txn.internal:
            txn.respond(401, "no", headers={"WWW-Authenticate": "Basic"})


def auth_request() -> Guard:
    return AuthRequest(AuthRequest.Options(url="http://auth.test/check"))


def rate_limit() -> Guard:
    return RateLimit(RateLimit.Options(rate=0.001, burst=1))


REFUSALS: dict[str, tuple[int, Callable[[], Guard] | None]] = {
    "access": (403, None),
    "auth_request": (401, auth_request),
    "rate_limit": (429, rate_limit),
    "guard": (401, Refusing),
}


async def ask_twice(kit: Kit) -> Any:
    """Two requests: the first takes what a rate limit gives."""
    kit.origins["auth.test"].answer("/check", 401, headers={"WWW-Authenticate": "Basic"})
    kit.origins["site.test"].answer("/", 200, "from the origin")
    await kit.ask("GET /")
    return await kit.ask("GET /")


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("level", ["proxy", "rule"])
@pytest.mark.parametrize(("hook", "act"), ANSWERS, ids=[f"{act.__name__} in {hook}" for hook, act in ANSWERS])
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_refusal_wins(autojump_clock: Clock, refusal: str, hook: str, act: Any, level: str, order: str) -> None:
    status, make = REFUSALS[refusal]
    answer = answering(hook, act)
    guards = (make(),) if make is not None else ()
    access = DENY if make is None else ()
    plugins = (answer, *guards) if order == "before" else (*guards, answer)
    rule = RemapRule("//site.test/", "http://site.test/")
    to_auth = RemapRule("//auth.test/", "http://auth.test/")
    if level == "rule" and hook in ("read_request", "pre_remap"):  # the answer is of the proxy, for these hooks of a rule do not run
        rule, plugins = attrs.evolve(rule, plugins=guards, access=access), (answer,)
    elif level == "rule":
        rule, plugins = attrs.evolve(rule, plugins=plugins, access=access), ()
    config = {"access": access} if level == "proxy" else {}
    async with open_kit(*plugins, origins=("site.test", "auth.test"), remap=[rule, to_auth], **config) as kit:
        reply = await ask_twice(kit)
    assert reply.status == status
    assert reply.body != b"content"
    assert not [request for request in kit.origins["site.test"].requests if refusal != "rate_limit"]


@pytest.mark.parametrize("first", ["auth_request", "rate_limit"])
async def test_guards_judge_in_the_order_of_the_configuration(autojump_clock: Clock, first: str) -> None:
    guards = [auth_request(), rate_limit()] if first == "auth_request" else [rate_limit(), auth_request()]
    async with open_kit(*guards, origins=("site.test", "auth.test")) as kit:
        reply = await ask_twice(kit)
        questions = len(kit.origins["auth.test"].requests)
    assert (reply.status, questions) == ((401, 2) if first == "auth_request" else (429, 1))


async def test_guard_judges_each_request_once(autojump_clock: Clock) -> None:
    asked: list[str] = []

    class Asking(Guard):
        async def judge(self, txn: Transaction) -> None:
            asked.append(txn.state.milestone)

    for level in ("proxy", "rule"):
        guard = Asking()
        rule = RemapRule("/", "http://site.test/", plugins=(guard,) if level == "rule" else ())
        async with open_kit(*((guard,) if level == "proxy" else ()), remap=[rule]) as kit:
            kit.origins["site.test"].answer("/")
            assert (await kit.ask("GET /")).status == 200
    assert asked == ["read_request", "remap"]


async def test_refusal_may_get_another_page(autojump_clock: Clock) -> None:
    async def page(_self: Plugin, txn: Transaction) -> None:
        txn.respond(txn.response.status, "a page", headers=txn.response.headers)

    pages: Plugin = type("Pages", (Plugin,), {"send_response": page})()
    async with open_kit(Refusing(), pages) as kit:
        reply = await kit.ask("GET /")
    assert (reply.status, reply.body, reply.headers["www-authenticate"]) == (401, b"a page", "Basic")


async def test_plugin_that_would_turn_a_refusal_into_a_success_is_named(autojump_clock: Clock) -> None:
    async with open_kit(Refusing(), answering("send_response", respond)) as kit:
        assert (await kit.ask("GET /")).status == 401
        failed = kit.record().plugin["Answering"]["failed"]
    assert failed["exception"] == ("InvalidState: respond(): Refusing has refused this request, so the status must be 300 or more, not 200")
