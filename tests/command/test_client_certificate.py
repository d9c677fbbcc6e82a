"""A listener asks its clients for a certificate, and access rules go by what they show."""

from __future__ import annotations

import ssl
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

from trio_tsconnect import Plugin, ProxyConfig, Transaction, open_proxy
from trio_tsconnect._command._listen import close_doors, find_protocols, open_doors
from trio_tsconnect.testing import exchange

CONFIG = """
[[listen]]
address = "127.0.0.1:0"
tls = { certificate = "cert.pem", key = "key.pem", client_ca = "ca.pem" }
[[access]]
action = "allow"
certificates = ["CN=ops"]
methods = ["POST"]
[[access]]
action = "deny"
methods = ["POST"]
[[remap]]
from = "/"
to = "http://nowhere.test/"
"""


class Done(Plugin):
    """Answers what was let through."""

    async def post_remap(self, txn: Transaction) -> None:
        txn.respond(200)


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = ca.issue_cert("site.test")
    server.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    server.private_key_pem.write_to_path(tmp_path / "key.pem")
    (tmp_path / "proxy.toml").write_text(CONFIG)
    return ca


@pytest.mark.parametrize(("name", "status"), [("ops", 200), ("somebody", 403), (None, 403)])
async def test_a_certificate_that_was_shown_is_judged(name: str | None, status: int, authority: trustme.CA, tmp_path: Path) -> None:
    config = ProxyConfig.from_toml(tmp_path / "proxy.toml")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if name is not None:
        authority.issue_cert("client.test", common_name=name).configure_cert(context)
    speak = find_protocols()
    doors = await open_doors(config, speak, "proxy.toml")
    try:
        async with open_proxy(config, plugins=[Done()]) as proxy, trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, partial(speak.serve, proxy), [door.listener for door in doors])
            stream = await trio.open_tcp_stream("127.0.0.1", int(doors[0].url.rpartition(":")[2]))
            async with trio.SSLStream(stream, context, server_hostname="site.test", https_compatible=True) as tls:
                reply = await exchange(tls, "POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            assert reply.status == status
            nursery.cancel_scope.cancel()
    finally:
        await close_doors(doors)
