"""Plays a case against a proxy of its own, over a socket, over TLS or over a virtual connection, and keeps all that can be observed.

Everything runs on a mock clock, so the waits of a case keep their order and cost no time; loopback is quicker than the clock's
threshold. No name is ever looked up outside the process.
"""

from __future__ import annotations

import functools
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, NoReturn

import attrs
import trio
import trustme

import trio_tsconnect
from trio_tsconnect import (
    AccessRule,
    ClientInfo,
    ConnectOptions,
    ConnectRefused,
    MemoryLog,
    Plugin,
    Proxy,
    ProxyConfig,
    RemapRule,
    VirtualConnection,
)

from ._cases import CLIENTS, Answer, Case, Outcome, Row, bodies, split_answers
from ._origin import Received, serve_origin

TRANSPORTS = ("tcp", "tls", "virtual")

_QUIET = 2.0
"""Seconds without a byte after which a reply is over: longer than the origin's /slow, shorter than any limit of the proxy."""
_PATIENCE = 30.0
"""Seconds a session may take to end once its client has closed: shorter than the keep-alive limit, so that limit cannot end it."""


@attrs.frozen(kw_only=True)
class Observed:
    """All that one run of a case showed."""

    reply: bytes
    """Every byte the client read."""
    hooks: tuple[str, ...]
    """Of the client's session, in the order in which they fired."""
    records: tuple[Any, ...]
    """The LogRecords of the client's session."""
    received: tuple[Received, ...]
    """What reached the origin."""

    def answers(self) -> tuple[Answer, ...]:
        """The responses in the reply."""
        return split_answers(self.reply, tuple(record.method for record in self.records))

    def log(self) -> tuple[Row, ...]:
        """The records, in the words of a case."""
        return tuple(_row(record) for record in self.records)

    def outcome(self) -> Outcome:
        """What is compared with Traffic Server."""
        answers, log = self.answers(), self.log()
        return Outcome(statuses=tuple(answer.status for answer in answers), bodies=bodies(answers, log), hooks=self.hooks, log=log)

    def undated_reply(self) -> bytes:
        """The reply without what depends on when it was given."""
        return re.sub(rb"(?i)\r\ndate: [^\r]*", b"\r\nDate: -", self.reply)


def _row(record: Any) -> Row:
    blame = "nobody" if record.ended.why == "complete" else record.ended.by
    return Row(record.method, record.status, record.origin_status, blame)


class Recorder(Plugin):
    """Notes each hook of each session."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[object, str]] = []
        self.first_session_closed = trio.Event()

    def hooks(self) -> tuple[str, ...]:
        """Those of the first session: later ones are the proxy's own, where it is the origin too."""
        return tuple(hook for session, hook in self.calls if session is self.calls[0][0])

    async def session_start(self, session: Any) -> None:
        self.calls.append((session, "session_start"))

    async def session_close(self, session: Any) -> None:
        self.calls.append((session, "session_close"))
        if session is self.calls[0][0]:
            self.first_session_closed.set()

    async def transaction_start(self, txn: Any) -> None:
        self.calls.append((txn.session, "transaction_start"))

    async def read_request(self, txn: Any) -> None:
        self.calls.append((txn.session, "read_request"))

    async def pre_remap(self, txn: Any) -> None:
        self.calls.append((txn.session, "pre_remap"))

    async def post_remap(self, txn: Any) -> None:
        self.calls.append((txn.session, "post_remap"))

    async def send_request(self, txn: Any) -> None:
        self.calls.append((txn.session, "send_request"))

    async def read_response(self, txn: Any) -> None:
        self.calls.append((txn.session, "read_response"))

    async def send_response(self, txn: Any) -> None:
        self.calls.append((txn.session, "send_response"))

    async def transaction_close(self, txn: Any) -> None:
        self.calls.append((txn.session, "transaction_close"))


class _NoNames(trio.abc.HostnameResolver):
    """A name service that knows no name, so that "name not found" needs no network."""

    async def getaddrinfo(self, host: bytes | None, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> NoReturn:
        await trio.lowlevel.checkpoint()
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, sockaddr: Any, flags: int) -> NoReturn:
        await trio.lowlevel.checkpoint()
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@attrs.frozen(kw_only=True)
class World:
    """What stands around the proxy: the origin, and a port where nobody listens."""

    origin_port: int
    refused_port: int
    received: list[Received]


@contextmanager
def _closed_port() -> Iterator[int]:
    # Bound but not listening: refuses, and nobody else can be given the port.
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield closed.getsockname()[1]


def _port(listener: trio.SocketListener) -> int:
    port = listener.socket.getsockname()[1]
    assert isinstance(port, int)
    return port


@asynccontextmanager
async def open_world() -> AsyncIterator[World]:
    """Start the origin; use it from one case at a time."""
    trio.socket.set_custom_hostname_resolver(_NoNames())
    received: list[Received] = []
    with _closed_port() as refused_port:
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, functools.partial(serve_origin, received=received), listeners)
            yield World(origin_port=_port(listeners[0]), refused_port=refused_port, received=received)
            nursery.cancel_scope.cancel()


@functools.cache
def _tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("site.test").configure_cert(server)
    authority.configure_trust(client)
    return server, client


def options(case: Case) -> ConnectOptions:
    """The case's options; ValueError where this proxy refuses them."""
    given: dict[str, Any] = {}
    if case.buffer_index is not None:
        given["buffer_index"] = case.buffer_index
    if case.buffer_water_mark is not None:
        given["buffer_water_mark"] = case.buffer_water_mark
    if case.client is not None:  # the process speaks for somebody here, and does not hide that it is the process
        return ConnectOptions(tag=case.tag, id=case.id, client=ClientInfo(address=case.client), internal=True, **given)
    return ConnectOptions(tag=case.tag, id=case.id, **given)


class _Client:
    """One client of the proxy: plays steps, and reads all the while."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.reply = bytearray()
        self._over = False
        self._news = trio.Event()

    async def read(self) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await self._stream.receive_some():
                self.reply += data
                self._tell()
        self._over = True
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def play(self, step: Sequence[str]) -> None:
        match step:
            case ("write" | "writeonce", text):
                # The proxy may have closed already: that is for the reply to tell.
                with suppress(trio.BrokenResourceError):
                    await self._stream.send_all(text.encode("latin-1"))
            case ("wait", seconds):
                await trio.sleep(float(seconds))
            case ("until", "DATA", seconds):
                with trio.move_on_after(float(seconds)):
                    while not self.reply and not self._over:
                        await self._news.wait()
            case ("shutw",):
                assert isinstance(self._stream, trio.abc.HalfCloseableStream)
                await self._stream.send_eof()
            case ("abort", _):
                await _reset(self._stream)
            case ("close" | "closedget",):
                pass  # the first is what the end of the steps does; the second asked the recorder's connection whether it was closed
            case _:
                raise AssertionError(f"a step that is not known: {step}")

    async def settle(self) -> None:
        """Return once the reply has ended, or nothing more of it comes."""
        while not self._over:
            with trio.move_on_after(_QUIET) as scope:
                await self._news.wait()
            if scope.cancelled_caught:
                return


async def _reset(stream: trio.abc.Stream) -> None:
    if isinstance(stream, VirtualConnection):
        stream.abort("the client aborted")
        return
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    assert isinstance(transport, trio.SocketStream)
    transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.aclose_forcefully(stream)


async def _play(case: Case, stream: trio.abc.Stream) -> bytes:
    client = _Client(stream)
    async with stream, trio.open_nursery() as nursery:
        if isinstance(stream, trio.SSLStream):
            try:
                await stream.do_handshake()
            except trio.BrokenResourceError:  # the client was refused before a word was said
                return b""
        nursery.start_soon(client.read)
        for step in case.steps:
            await client.play(step)
        if not case.steps or case.steps[-1][0] not in ("close", "abort"):
            await client.settle()
        nursery.cancel_scope.cancel()
    return bytes(client.reply)


def _serve(case: Case, proxy: Proxy) -> Callable[[trio.abc.Stream], Awaitable[None]]:
    """A handler of a listener's streams, which tells the proxy who the client is where the case does."""
    return functools.partial(proxy.serve_stream, client=ClientInfo(address=case.client) if case.client is not None else None)


async def _open(case: Case, transport: str, proxy: Proxy, port: int, nursery: trio.Nursery) -> trio.abc.Stream:
    if transport == "virtual":
        return proxy.connect(options(case))
    if transport == "tcp":
        return await trio.open_tcp_stream("127.0.0.1", port)
    server, client = _tls()
    listener, *_ = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, _serve(case, proxy), [trio.SSLListener(listener, server, https_compatible=True)])
    plain = await trio.open_tcp_stream("127.0.0.1", _port(listener))
    return trio.SSLStream(plain, client, server_hostname="site.test", https_compatible=True)


def _config(world: World, proxy_port: int) -> ProxyConfig:
    targets = {
        "site.test": f"127.0.0.1:{world.origin_port}",
        "refused.test": f"127.0.0.1:{world.refused_port}",
        "nodns.test": "nosuchhost.invalid",
        "loop.test": f"127.0.0.1:{proxy_port}",
    }
    # Traffic Server answers a half-closed client, on a socket too; here a listener has to be told so.
    http = attrs.evolve(ProxyConfig().http, half_close="finish")
    rules = [RemapRule(f"//{host}/", f"http://{target}/") for host, target in targets.items()]
    only_internal = (AccessRule(action="allow", internal=True), AccessRule(action="deny"))
    rules.append(RemapRule("//onlyinternal.test/", f"http://{targets['site.test']}/", access=only_internal))
    access = (
        AccessRule(action="deny", clients=CLIENTS["S_addr_denied"]),
        AccessRule(action="allow", clients=CLIENTS["S_addr_getonly"], methods="GET"),
        AccessRule(action="deny", clients=CLIENTS["S_addr_getonly"]),
    )
    return ProxyConfig(remap=rules, access=access, http=http)


async def observe(case: Case, transport: str, world: World) -> Observed:
    """Play the case over the transport, against a proxy that has served nobody yet."""
    world.received.clear()
    recorder, log = Recorder(), MemoryLog()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = _port(listeners[0])
    async with trio_tsconnect.open_proxy(_config(world, port), plugins=(recorder,), log=log) as proxy, trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, _serve(case, proxy), listeners)
        try:
            reply = await _play(case, await _open(case, transport, proxy, port, nursery))
        except ConnectRefused as refused:  # there the call gives a connection that has ended already
            if refused.reason != "denied":
                raise
            reply = b""
        with trio.move_on_after(_PATIENCE):
            await recorder.first_session_closed.wait()
        nursery.cancel_scope.cancel()
    first = min((record.session for record in log.records), default=0)
    records = tuple(record for record in log.records if record.session == first)
    return Observed(reply=reply, hooks=recorder.hooks() if recorder.calls else (), records=records, received=tuple(world.received))
