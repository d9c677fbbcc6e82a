"""Access rules: which one decides, what a denied request meets, and that a virtual client is judged as a network client is."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.abc import Clock
from trio.testing import wait_all_tasks_blocked

from trio_tsconnect import (
    AccessRule,
    ClientInfo,
    ConfigError,
    ConnectOptions,
    ConnectRefused,
    HttpConfig,
    MemoryLog,
    Plugin,
    Proxy,
    ProxyConfig,
    RemapRule,
    TLSInfo,
    Transaction,
    open_proxy,
    open_virtual_connection_pair,
)
from trio_tsconnect.config import warnings
from trio_tsconnect.config._access import admits, check_access
from trio_tsconnect.hooks import HOOKS
from trio_tsconnect.message import TransactionFailure
from trio_tsconnect.testing import exchange

ALLOW, DENY = AccessRule(action="allow"), AccessRule(action="deny")
CERTIFICATE = {
    "subject": ((("countryName", "XX"),), (("organizationName", "Example"),), (("commonName", "ops"),)),
    "subjectAltName": (("DNS", "Ops.Example"), ("URI", "spiffe://example/ops"), ("email", "ops@example"), ("IP Address", "192.0.2.7")),
}


def client(address: str = "192.0.2.1", certificate: dict[str, Any] | None = None) -> ClientInfo:
    tls = TLSInfo(certificate=certificate) if certificate else None
    return ClientInfo(address=(address, 1234), scheme="https" if tls else "http", tls=tls)


def allowed(*rules: AccessRule, who: ClientInfo | None = None, method: str = "GET", internal: bool = False) -> bool:
    try:
        check_access(rules, client=who or client(), method=method, internal=internal)
    except TransactionFailure:
        return False
    return True


# --- which rule decides -----------------------------------------------------------------------------------------------------------


def test_without_a_rule_that_matches_a_request_is_allowed() -> None:
    assert allowed()
    assert allowed(AccessRule(action="deny", methods="POST"))


def test_the_first_rule_that_matches_decides() -> None:
    assert allowed(ALLOW, DENY)
    assert not allowed(DENY, ALLOW)
    assert allowed(AccessRule(action="deny", methods="POST"), ALLOW, DENY)


@pytest.mark.parametrize(
    ("networks", "address", "covered"),
    [
        (["192.0.2.0/24"], "192.0.2.1", True),
        (["192.0.2.0/24"], "192.0.3.1", False),
        (["192.0.2.1"], "192.0.2.1", True),
        (["10.0.0.0/8", "192.0.2.0/24"], "192.0.2.1", True),
        (["2001:db8::/32"], "2001:db8::1", True),
        (["2001:db8::/32"], "192.0.2.1", False),
        (["192.0.2.0/24"], "::ffff:192.0.2.1", True),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["0.0.0.0/0", "::/0"], "unknown", False),
        (["0.0.0.0/0", "::/0"], "unix", False),
    ],
)
def test_a_rule_for_networks_covers_the_clients_within(networks: list[str], address: str, covered: bool) -> None:
    assert allowed(AccessRule(action="deny", clients=networks), who=client(address)) is not covered


def test_methods_are_compared_as_they_are_sent() -> None:
    only_get = (AccessRule(action="allow", methods=["GET", "HEAD"]), DENY)
    assert allowed(*only_get, method="HEAD")
    assert not allowed(*only_get, method="POST")
    assert not allowed(*only_get, method="get")


def test_a_rule_may_be_for_the_process_itself_or_for_its_clients() -> None:
    only_internal = (AccessRule(action="allow", internal=True), DENY)
    assert allowed(*only_internal, internal=True)
    assert not allowed(*only_internal, internal=False)
    assert allowed(AccessRule(action="deny", internal=False), internal=True)


@pytest.mark.parametrize(
    "name", ["*", "CN=ops", "O=Example", "DNS:ops.example", "URI:spiffe://example/ops", "EMAIL:ops@example", "IP:192.0.2.7"]
)
def test_a_rule_for_certificates_covers_who_has_shown_one_with_the_name(name: str) -> None:
    rules = (AccessRule(action="allow", certificates=name), DENY)
    assert allowed(*rules, who=client(certificate=CERTIFICATE))
    assert not allowed(*rules, who=client())


@pytest.mark.parametrize("name", ["CN=Ops", "CN=op", "O=ops", "OU=Example", "DNS:example", "URI:ops"])
def test_a_certificate_with_another_name_is_not_covered(name: str) -> None:
    assert not allowed(AccessRule(action="allow", certificates=name), DENY, who=client(certificate=CERTIFICATE))


def test_all_conditions_of_a_rule_must_be_met() -> None:
    rule = AccessRule(action="deny", clients="192.0.2.0/24", methods="POST", internal=False, certificates="CN=ops")
    who = client(certificate=CERTIFICATE)
    assert not allowed(rule, who=who, method="POST")
    assert allowed(rule, who=who, method="GET")
    assert allowed(rule, who=who, method="POST", internal=True)
    assert allowed(rule, who=client(), method="POST")
    assert allowed(rule, who=client("198.51.100.1", CERTIFICATE), method="POST")


@pytest.mark.parametrize(
    ("rules", "admitted"),
    [
        ((), True),
        ((DENY,), False),
        ((ALLOW, DENY), True),
        ((AccessRule(action="deny", clients="192.0.2.0/24"),), False),
        ((AccessRule(action="deny", clients="198.51.100.0/24"),), True),
        ((AccessRule(action="deny", methods=["GET", "POST"]),), True),
        ((AccessRule(action="deny", methods="GET"), DENY), False),
        ((AccessRule(action="allow", methods="GET"), DENY), True),
    ],
)
def test_a_client_to_whom_every_method_is_denied_is_not_admitted(rules: tuple[AccessRule, ...], admitted: bool) -> None:
    assert admits(rules, client=client(), internal=False) is admitted


def test_the_process_itself_has_no_address() -> None:
    assert admits((AccessRule(action="deny", clients=["0.0.0.0/0", "::/0"]),), client=None, internal=True)
    assert not admits((AccessRule(action="allow", certificates="*"), DENY), client=None, internal=True)


# --- what a rule may be -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"action": "refuse"}, 'action: must be "allow" or "deny", got "refuse"'),
        ({"clients": ["10.0.0.1", "10.0.0.1/8"]}, 'clients[1]: must be an address or a network, such as "10.0.0.0/8" or "2001:db8::/32", got "10.0.0.1/8"; did you mean "10.0.0.0/8"?'),
        ({"clients": "site.example"}, 'clients[0]: must be an address or a network, such as "10.0.0.0/8" or "2001:db8::/32", got "site.example"'),
        ({"clients": [7]}, 'clients[0]: must be an address or a network, such as "10.0.0.0/8" or "2001:db8::/32", got 7'),
        ({"methods": ["GET", "a b"]}, 'methods[1]: must be a method, such as "GET", got "a b"'),
        ({"methods": "post"}, 'methods[0]: must be a method in upper case, got "post"; did you mean "POST"?'),
        ({"internal": 1}, "internal: must be true or false, got 1"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_meant_is_refused(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AccessRule(**{"action": "deny"} | fields)
    assert str(caught.value) == line


@pytest.mark.parametrize("name", ["ops", "cn=ops", "CN=", "DNS:", "C=XX", 7])
def test_a_certificate_is_asked_for_in_one_of_the_forms(name: object) -> None:
    with pytest.raises(ConfigError, match=r"^certificates\[0\]: must be "):
        AccessRule(action="deny", certificates=[name])


def test_rules_that_nobody_gets_to_are_worth_a_warning() -> None:
    dead = (AccessRule(action="allow", methods="GET"), DENY, ALLOW)
    config = ProxyConfig(access=dead, remap=[RemapRule("/", "http://o", access=dead)])
    assert warnings(config) == [
        "access[2]: is never used: access[1] matches every request",
        "remap[0].access[2]: is never used: remap[0].access[1] matches every request",
    ]
    assert warnings(ProxyConfig(access=dead[:2])) == []


# --- what a denied request meets --------------------------------------------------------------------------------------------------


class Recorder(Plugin):
    """Notes the hooks, and answers what gets past the rules."""

    def __init__(self) -> None:
        self.hooks: list[str] = []

    async def post_remap(self, txn: Transaction) -> None:
        self.hooks.append("post_remap")
        txn.respond(200, "done")


def _noting(name: str) -> Any:
    async def hook(self: Recorder, _subject: object) -> None:
        self.hooks.append(name)

    return hook


for _name in HOOKS:
    if _name != "post_remap":
        setattr(Recorder, _name, _noting(_name))

DENIED = ["session_start", "transaction_start", "read_request", "pre_remap", "send_response", "transaction_close", "session_close"]
GET = b"GET / HTTP/1.1\r\nHost: site.test\r\n\r\n"


async def over_a_stream(proxy: Proxy, who: ClientInfo, data: bytes) -> int:
    near, far = open_virtual_connection_pair()
    async with trio.open_nursery() as nursery, near:
        nursery.start_soon(lambda: proxy.serve_stream(far, client=who))
        return (await exchange(near, data)).status


async def over_a_virtual_connection(proxy: Proxy, who: ClientInfo, data: bytes) -> int:
    async with proxy.connect(ConnectOptions(client=who)) as stream:
        return (await exchange(stream, data)).status


@pytest.mark.parametrize("over", [over_a_stream, over_a_virtual_connection])
@pytest.mark.parametrize("where", ["proxy", "rule"])
async def test_a_denied_request_is_answered_403_and_recorded(over: Any, where: str, autojump_clock: Clock) -> None:
    rules = (AccessRule(action="allow", methods="GET", clients="192.0.2.0/24"), AccessRule(action="deny", methods="POST"))
    remap = [RemapRule("/", "http://o.test", access=rules if where == "rule" else ())]
    log, recorder = MemoryLog(), Recorder()
    config = ProxyConfig(remap=remap, access=rules if where == "proxy" else ())
    async with open_proxy(config, log=log, plugins=[recorder]) as proxy:
        assert await over(proxy, client("192.0.2.1"), GET) == 200
        await wait_all_tasks_blocked()
        recorder.hooks.clear()
        assert (
            await over(proxy, client("192.0.2.1"), GET.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\nx"))
            == 403
        )
    record = log.records[1]
    assert (record.status, record.ended.by, record.ended.why, record.ended.state) == (403, "proxy", "access_denied", "remap")
    assert (record.origin_url, record.attempts, record.client_address) == (None, 0, "192.0.2.1")
    assert record.remap_rule == ("/" if where == "rule" else None)
    assert recorder.hooks == DENIED


async def test_a_request_must_get_past_the_rules_of_the_proxy_and_of_its_remap_rule(autojump_clock: Clock) -> None:
    remap = [
        RemapRule("//open.test/", "http://o.test"),
        RemapRule("//closed.test/", "http://o.test", access=[AccessRule(action="allow", internal=True), DENY]),
    ]
    async with open_proxy(ProxyConfig(remap=remap, access=[AccessRule(action="deny", methods="POST")]), plugins=[Recorder()]) as proxy:
        for host, method, options, status in [
            (b"open.test", b"GET", ConnectOptions(client=client()), 200),
            (b"open.test", b"PUT", ConnectOptions(client=client()), 200),
            (b"open.test", b"POST", ConnectOptions(client=client()), 403),
            (b"closed.test", b"GET", ConnectOptions(client=client()), 403),
            (b"closed.test", b"GET", ConnectOptions(), 200),
            (b"closed.test", b"POST", ConnectOptions(), 403),
        ]:
            async with proxy.connect(options) as stream:
                data = method + b" / HTTP/1.1\r\nHost: " + host + b"\r\nContent-Length: 0\r\n\r\n"
                assert (await exchange(stream, data)).status == status, (host, method, options.is_internal)


async def test_the_rules_hold_where_no_remap_rule_is_asked(autojump_clock: Clock) -> None:
    access = [AccessRule(action="deny", methods=["CONNECT", "GET"])]
    http = HttpConfig(remap_required=False, connect=("*:443",))
    async with open_proxy(ProxyConfig(access=access, http=http), plugins=[Recorder()]) as proxy:
        for data in (b"CONNECT site.test:443 HTTP/1.1\r\nHost: site.test:443\r\n\r\n", GET):
            async with proxy.connect() as stream:
                assert (await exchange(stream, data)).status == 403


async def test_the_connection_goes_on_after_a_denied_request(autojump_clock: Clock) -> None:
    config = ProxyConfig(remap=[RemapRule("/", "http://o.test")], access=[AccessRule(action="deny", methods="DELETE")])
    async with open_proxy(config, plugins=[Recorder()]) as proxy, proxy.connect() as stream:
        replies = await exchange(stream, GET.replace(b"GET", b"DELETE") + GET, count=2)
    assert [reply.status for reply in replies] == [403, 200]


async def test_a_client_to_whom_everything_is_denied_gets_no_connection(autojump_clock: Clock) -> None:
    log, recorder = MemoryLog(), Recorder()
    async with open_proxy(ProxyConfig(access=[AccessRule(action="deny", clients="192.0.2.66")]), log=log, plugins=[recorder]) as proxy:
        with pytest.raises(ConnectRefused) as refused:
            proxy.connect(ConnectOptions(client=client("192.0.2.66")))
        assert refused.value.reason == "denied"
        near, far = open_virtual_connection_pair()
        await proxy.serve_stream(far, client=client("192.0.2.66"))
        assert await near.receive_some() == b""
        assert proxy.statistics().sessions == 0
    assert log.records == []
    assert recorder.hooks == []
