from __future__ import annotations

import ssl
from pathlib import Path

import attrs
import pytest
import trustme


@attrs.frozen
class Identity:
    """A certificate for api.example, and a client's context that trusts it."""

    pem: Path
    """The certificate and its key in one file."""
    authority: Path
    """The authority's certificate."""

    @property
    def tls(self) -> str:
        return f'tls = {{ certificate = "{self.pem}", key = "{self.pem}" }}'

    def trusting(self, *protocols: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority))
        context.set_alpn_protocols(list(protocols))
        return context


@pytest.fixture(scope="session")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    folder, authority = tmp_path_factory.mktemp("identity"), trustme.CA()
    made = Identity(folder / "both.pem", folder / "authority.pem")
    authority.issue_cert("api.example", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(made.pem)
    authority.cert_pem.write_to_path(made.authority)
    return made
