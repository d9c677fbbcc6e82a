"""What a plugin's author sees: the public names of a transaction, a session and a proxy, and no others."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine._world import GET, Wire
from trio_tsconnect import Plugin, Proxy, Session, Transaction, open_proxy

ROOT = Path(__file__).parent.parent.parent
ENGINES_OWN = {
    "Transaction": [
        "watch",
        "core",
        "plugin_log",
        "answer",
        "enter",
        "origin",
        "keep_alive",
        "session.http",
        "session.nursery",
        "session.core",
    ],
    "Session": ["http", "nursery", "stream", "core", "cancel", "requests"],
    "Proxy": ["core", "open_session", "pool", "timer", "_sessions"],
}
PUBLIC = {
    "Transaction": [
        *("number", "session", "config", "origin_config", "state", "milestones", "parent", "depth", "failure", "rule", "method", "url"),
        *(
            "answered_by",
            "origin_status",
            "attempts",
            "ended",
            "data",
            "proxy",
            "request",
            "can_retry",
            "has_request",
            "has_route",
            "response",
            "replaced_by",
            "response_source",
            "trace",
            "root",
            "client",
            "tag",
            "id",
        ),
        *(
            "internal",
            "log",
            "respond",
            "intercept",
            "transform_request",
            "transform_response",
            "read_request_body",
            "retry",
            "connect",
            "fetch",
        ),
    ],
    "Session": ["proxy", "number", "client", "tag", "id", "internal", "target", "data"],
    "Proxy": [
        *(
            "config",
            "draining",
            "serve_stream",
            "connect",
            "fetch",
            "front_end",
            "next_id",
            "plugins",
            "tree",
            "sessions",
            "statistics",
            "drain",
        ),
        "wait_until_draining",
    ],
}


def names_of(face: type) -> set[str]:
    return {name for name in {*vars(face), *face.__annotations__} if not name.startswith("_")}


@pytest.mark.parametrize("face", [Transaction, Session, Proxy])
def test_faces_have_the_public_names_and_no_others(face: type) -> None:
    assert names_of(face) == set(PUBLIC[face.__name__])


@pytest.mark.parametrize("face", [Transaction, Proxy])
def test_faces_are_not_made_by_users(face: type) -> None:
    with pytest.raises(TypeError, match="abstract"):
        face()


def test_reference_names_all_that_a_transaction_has() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    mentioned = set(re.findall(r"`(?:await )?([a-z_]+)", text[text.index("A `Transaction` has") : text.index("## The rooms")]))
    assert set(PUBLIC["Transaction"]) <= mentioned


async def test_what_a_hook_gets_is_what_it_sees() -> None:
    """The face is no wrapper: the attributes are those of the object that the engine runs on."""
    seen: list[Transaction] = []

    class Looks(Plugin):
        async def read_request(self, txn: Transaction) -> None:
            for name in PUBLIC["Transaction"]:
                if name not in ("response", "failure"):  # there is none yet
                    getattr(txn, name)
            for name in PUBLIC["Session"]:
                getattr(txn.session, name)
            for name in PUBLIC["Proxy"]:
                getattr(txn.proxy, name)
            assert isinstance(txn.session, Session)
            assert isinstance(txn.proxy, Proxy)
            seen.append(txn)
            txn.respond(204)

    async with open_proxy(plugins=[Looks()]) as proxy:
        assert (await Wire(proxy.connect()).ask(GET)).status == 204
        assert seen[0].proxy is proxy


def program() -> tuple[str, list[int]]:
    """A module, and its lines on which a type checker has to complain; on no others."""
    lines = [
        "from trio_tsconnect import Plugin, Proxy, Session, Transaction",
        "class Mine(Plugin):",
        "    async def read_request(self, txn: Transaction) -> None:",
        *(f"        print(txn.{name})" for name in PUBLIC["Transaction"]),
        *(f"        print(txn.{name})  # no" for name in ENGINES_OWN["Transaction"]),
        "    async def session_start(self, session: Session) -> None:",
        *(f"        print(session.{name})" for name in PUBLIC["Session"]),
        *(f"        print(session.{name})  # no" for name in ENGINES_OWN["Session"]),
        "    async def run(self, proxy: Proxy) -> None:",
        *(f"        print(proxy.{name})" for name in PUBLIC["Proxy"]),
        *(f"        print(proxy.{name})  # no" for name in ENGINES_OWN["Proxy"]),
    ]
    bad = [number for number, line in enumerate(lines, 1) if line.endswith("# no")]
    return "\n".join(lines) + "\n", bad


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.needs("mypy")
def test_mypy_sees_the_public_names_only(tmp_path: Path) -> None:
    text, bad = program()
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-error-summary",
        "--cache-dir",
        str(tmp_path / "cache"),
        str(tmp_path / "mine.py"),
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    complained = [int(match[1]) for match in re.finditer(r"mine\.py:(\d+): error: .*\[attr-defined\]", done.stdout)]
    assert sorted(set(complained)) == bad, done.stdout + done.stderr


@pytest.mark.needs("basedpyright")
def test_pyright_sees_the_public_names_only(tmp_path: Path) -> None:
    text, bad = program()
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "standard", "extraPaths": [str(ROOT)]}), encoding="utf-8")
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "-p", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["generalDiagnostics"]
    complained = {each["range"]["start"]["line"] + 1 for each in found if each.get("rule") == "reportAttributeAccessIssue"}
    assert sorted(complained) == bad, found
