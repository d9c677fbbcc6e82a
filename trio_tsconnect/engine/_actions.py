"""The methods of `Transaction` that plugins call."""

from __future__ import annotations

from functools import partial

from trio_tsconnect.engine._bodies import read_request_body
from trio_tsconnect.engine._children import open_child
from trio_tsconnect.engine._hooks import blame_intercept
from trio_tsconnect.engine._transaction import EngineTransaction
from trio_tsconnect.hooks import ConnectOptions, InvalidState, Serve, State, Transform
from trio_tsconnect.message import Headers, HeadersInput, Response, TargetURI
from trio_tsconnect.origin import InterceptOrigin
from trio_tsconnect.stream import Identity, VirtualConnection


class ServedTransaction(EngineTransaction):
    """The concrete transaction class. Functions of the engine need only an `EngineTransaction`; that avoids circular imports."""

    def respond(self, status: int, body: bytes | str = b"", *, headers: HeadersInput = ()) -> None:
        if self.state not in (State.READ_REQUEST, State.REMAP) or self._request is None:
            raise InvalidState(f"respond() is allowed from read_request to post_remap, not in state {self.state.milestone}")
        if not isinstance(status, int) or not 200 <= status <= 599:
            raise ValueError(f"status must be an int in 200..599, not {status!r}")
        fields = Headers(headers)
        if isinstance(body, str):
            body = body.encode()
            fields.setdefault("Content-Type", "text/plain; charset=utf-8")
        self.answer = bytes(body)
        self._response = Response(status, fields)

    def intercept(self, serve: Serve) -> None:
        self._only_in("intercept()", State.READ_REQUEST, State.REMAP)
        plugin, nursery = self.plugin_name or "-", self.session.nursery
        assert nursery is not None
        identity = Identity(tag=self.tag, id=self.id, opener_address=("proxy", 0), peer_address=(plugin, 0), client=self.client)
        self.intercept_origin = InterceptOrigin(serve, plugin, identity, nursery, partial(blame_intercept, self, plugin))

    def transform_request(self, transform: Transform) -> None:
        self._only_in("transform_request()", State.READ_REQUEST, State.REMAP, State.ACQUIRE_ORIGIN, State.SEND_REQUEST)
        self.request_transforms += ((self.plugin_name or "-", transform),)

    def transform_response(self, transform: Transform) -> None:
        if self.response_begun:
            raise InvalidState(f"transform_response() is allowed until send_response has returned, not in state {self.state.milestone}")
        self.response_transforms += ((self.plugin_name or "-", transform),)

    async def read_request_body(self, limit: int) -> bytes:
        self._only_in("read_request_body()", State.READ_REQUEST, State.REMAP, State.ACQUIRE_ORIGIN, State.SEND_REQUEST)
        return await read_request_body(self, limit)

    def retry(self, target: str | None = None) -> None:
        self._only_in("retry()", State.READ_RESPONSE)
        if self.interim_sent:
            raise InvalidState("retry() is not allowed after an interim response was sent to the client")
        replayable = self.session.http.body.empty or (self.request_body is not None and not self.request_transforms)
        if not replayable:
            raise InvalidState("retry() needs a request body that can be sent again: call read_request_body() before the body is sent")
        target = self.request.target if target is None else _absolute(target)
        if self.retry_target is not None:  # another plugin has called retry() for this response: together they are one attempt
            self.retry_target = target
        elif self.retries < self.origin_config.max_retries:
            self.retries += 1
            self.retry_target = target

    def connect(self, options: ConnectOptions | None = None, *, detach: bool = False) -> VirtualConnection:
        return open_child(self, options or ConnectOptions(), detach=detach)

    def _only_in(self, what: str, *states: State) -> None:
        if self.state not in states or self._request is None:
            raise InvalidState(f"{what} is not allowed in state {self.state.milestone} of transaction {self.number}")


def _absolute(target: str) -> str:
    """Return `target` if it is an absolute http, https, ws or wss URI. Raise `TypeError` or `ValueError` otherwise."""
    if not isinstance(target, str):
        raise TypeError(f"the target of retry() must be a str with an absolute URI, not {type(target).__name__}")
    if TargetURI.parse(target).scheme not in ("http", "https", "ws", "wss"):
        raise ValueError(f"the target of retry() must be an http, https, ws or wss URI, not {target!r}")
    return target
