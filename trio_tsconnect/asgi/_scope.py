"""The ASGI scope of a call, built from a request head."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from trio_tsconnect.asgi._types import Scope
from trio_tsconnect.message import URL, Request, parse_authority, split_list
from trio_tsconnect.stream import ClientInfo

ASGI = {"version": "3.0", "spec_version": "2.3"}
"""Version 2.3 and not 2.4: with 2.3 frameworks wait in `receive` for `http.disconnect`, and cancel a streaming response when it arrives."""


def http_scope(request: Request, client: ClientInfo, *, root_path: str, state: dict[Any, Any]) -> Scope:
    """Return the scope of an HTTP request."""
    return _scope("http", client.scheme, request, client, root_path, state) | {
        "method": request.method.upper(),
        "extensions": {"http.response.trailers": {}, "http.response.early_hint": {}},
    }


def websocket_scope(request: Request, client: ClientInfo, *, root_path: str, state: dict[Any, Any]) -> Scope:
    """Return the scope of a WebSocket handshake."""
    scheme = "wss" if client.scheme == "https" else "ws"
    return _scope("websocket", scheme, request, client, root_path, state) | {
        "subprotocols": split_list(request.headers.get("sec-websocket-protocol", "")),
        "extensions": {"websocket.http.response": {}},
    }


def _scope(kind: str, scheme: str, request: Request, client: ClientInfo, root_path: str, state: dict[Any, Any]) -> dict[str, Any]:
    path, _, query = _origin_form(request.target).partition("?")
    return {
        "type": kind,
        "asgi": ASGI.copy(),
        "http_version": request.version,
        "scheme": scheme,
        "path": root_path + unquote(path),
        "raw_path": root_path.encode() + path.encode("ascii"),
        "query_string": query.encode("ascii"),
        "root_path": root_path,
        "headers": [(name, value) for _, name, value in request.headers.fields],
        "client": _client_address(client),
        "server": _server_address(request, client.scheme),
        "state": state.copy(),
    }


def _origin_form(target: str) -> str:
    if target.startswith("/"):
        return target
    try:
        return URL.parse(target).target
    except ValueError:
        return target  # OPTIONS with the target "*"


def _client_address(client: ClientInfo) -> tuple[str, int] | None:
    if client.host in ("", "unknown", "unix"):
        return None
    return client.host, client.port or 0


def _server_address(request: Request, scheme: str) -> tuple[str, int | None] | None:
    try:
        host, port = parse_authority(request.headers.get("host") or "")
    except ValueError:
        return None
    if not host:
        return None
    return host, port or (443 if scheme == "https" else 80)
