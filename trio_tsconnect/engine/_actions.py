"""The methods of `Transaction` that plugins call."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from trio_tsconnect.engine._bodies import read_request_body
from trio_tsconnect.engine._children import open_child
from trio_tsconnect.engine._hooks import blame_intercept
from trio_tsconnect.engine._transaction import EngineTransaction
from trio_tsconnect.hooks import AnyTransform, ConnectOptions, InvalidState, Serve, State
from trio_tsconnect.message import URL, Headers, HeadersInput, Response
from trio_tsconnect.origin import InterceptOrigin
from trio_tsconnect.stream import Identity, VirtualConnection

_BEFORE_THE_ORIGIN = (State.READ_REQUEST, State.REMAP)
_MAY_REPLACE = (State.ACQUIRE_ORIGIN, State.SEND_REQUEST, State.READ_RESPONSE, State.SEND_RESPONSE)


class ServedTransaction(EngineTransaction):
    """The concrete transaction class. Functions of the engine need only an `EngineTransaction`; that avoids circular imports."""

    def respond(self, status: int, body: bytes | str = b"", *, headers: HeadersInput = ()) -> None:
        if not isinstance(status, int) or not 200 <= status <= 599:
            raise ValueError(f"status must be an int in 200..599, not {status!r}")
        fields = Headers(headers)
        if not isinstance(body, (bytes, bytearray, memoryview, str)):
            raise TypeError(f"body must be bytes or str, not {type(body).__name__}")
        if isinstance(body, str):
            body = body.encode()
            fields.setdefault("Content-Type", "text/plain; charset=utf-8")
        content = bytes(body)
        self._answer(status)
        self.forget_response()
        self.answer, self.response_source = content, "plugin"
        self._response = Response(status, fields)

    def intercept(self, serve: Serve) -> None:
        self._only_in("intercept()", *_BEFORE_THE_ORIGIN)
        plugin, nursery = self.plugin_name or "-", self.session.nursery
        assert nursery is not None
        if self.answered_by is not None:
            raise InvalidState(f"intercept(): {self.answered_by} has answered this request already")
        self.answered_by = plugin
        identity = Identity(tag=self.tag, id=self.id, opener_address=("proxy", 0), peer_address=(plugin, 0), client=self.client)
        self.intercept_origin = InterceptOrigin(serve, plugin, identity, nursery, partial(blame_intercept, self, plugin))

    def _answer(self, status: int) -> None:
        """Note that the plugin answers or replaces the response. Raise `InvalidState` if it must not."""
        early = self.state is State.READ_REQUEST or self.state is State.REMAP
        legal = (early or self.state in _MAY_REPLACE) and (self._request is not None or self.state is State.SEND_RESPONSE)
        if not self.plugin_name or self.response_begun or not legal:
            where = f"state {self.state.milestone}" if self.plugin_name else "a task outside of a hook"
            raise InvalidState(
                f"respond() is allowed in hooks from read_request to send_response, until a response is begun, not in {where}"
            )
        if self.retry_target is not None:
            raise InvalidState("respond() is not allowed after retry(): another attempt was asked for")
        if not early:
            self._replace_response(status)
            return
        if self.answer is not None and (self.refused_by is not None or not self.guarding):
            raise InvalidState(f"respond(): {self.answered_by} has answered this request already")
        if self.guarding and status >= 300:
            self.refused_by = self.plugin_name
        self.answered_by = self.plugin_name

    def _replace_response(self, status: int) -> None:
        stage = State.SEND_RESPONSE if self.state is State.SEND_RESPONSE else State.READ_RESPONSE
        if self.replaced is not None and self.replaced[0] is stage:
            raise InvalidState(f"respond(): {self.replaced[1]} has answered already")
        if self.refused_by is not None and status < 300:
            raise InvalidState(f"respond(): {self.refused_by} has refused this request, so the status must be 300 or more, not {status}")
        if self.guarding and status >= 300:
            self.refused_by = self.plugin_name
        self.replaced = (stage, self.plugin_name)

    def transform_request(self, transform: AnyTransform) -> None:
        self._only_in("transform_request()", State.READ_REQUEST, State.REMAP, State.ACQUIRE_ORIGIN, State.SEND_REQUEST)
        _check_transform(transform)
        self.request_transforms += ((self.plugin_name or "-", transform),)

    def transform_response(self, transform: AnyTransform) -> None:
        if self.response_begun:
            raise InvalidState(f"transform_response() is allowed until send_response has returned, not in state {self.state.milestone}")
        _check_transform(transform)
        self.response_transforms += ((self.plugin_name or "-", transform),)

    async def read_request_body(self, limit: int) -> bytes:
        self._only_in("read_request_body()", State.READ_REQUEST, State.REMAP, State.ACQUIRE_ORIGIN, State.SEND_REQUEST)
        return await read_request_body(self, limit)

    def retry(self, target: str | URL | None = None) -> None:
        if not self.may_recover:
            self._only_in("retry()", State.READ_RESPONSE)
        if not self.plugin_name:
            raise InvalidState("retry() is allowed in a hook only")
        if self.answer is not None:
            raise InvalidState("retry() is not allowed after respond()")
        if self.interim_sent:
            raise InvalidState("retry() is not allowed after an interim response was sent to the client")
        if not self.can_repeat:
            raise InvalidState("retry() needs a request body that can be sent again: call read_request_body() before the body is sent")
        where = self.request.target if target is None else _absolute(target)
        # A second call for this response changes where the same attempt goes.
        if self.retry_target is not None or self.retries < self.origin_config.max_retries:
            self.retries += self.retry_target is None
            self.retry_target, self.retry_elsewhere = where, target is not None

    def connect(self, options: ConnectOptions | None = None, *, detach: bool = False) -> VirtualConnection:
        return open_child(self, options or ConnectOptions(), detach=detach)

    def _only_in(self, what: str, *states: State) -> None:
        if self.state not in states or self._request is None:
            raise InvalidState(f"{what} is not allowed in state {self.state.milestone} of transaction {self.number}")


def _check_transform(transform: Any) -> None:
    """Raise `TypeError` unless `transform` has `feed` and `finish`, or can be called."""
    methods = (transform.feed, getattr(transform, "finish", None)) if hasattr(transform, "feed") else (transform,)
    if isinstance(transform, type) or inspect.iscoroutinefunction(transform) or not all(callable(method) for method in methods):
        raise TypeError(f"a transform must be an object with feed() and finish(), or an async generator function, not {transform!r}")


def _absolute(target: str | URL) -> str:
    """Return `target` as text if it is an absolute URL. Raise `TypeError` or `ValueError` otherwise."""
    if not isinstance(target, (str, URL)):
        raise TypeError(f"the target of retry() must be a URL or a str with an absolute URL, not {type(target).__name__}")
    return str(target if isinstance(target, URL) else URL.parse(target))
