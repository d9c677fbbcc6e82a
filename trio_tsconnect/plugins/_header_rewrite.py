"""Fields set, added and removed as a configuration says: on requests as they go to the origin, on responses as they go to the client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from trio_tsconnect import ConfigError, Headers, Plugin, Transaction
from trio_tsconnect._util import public
from trio_tsconnect.plugins._asked import asked_for
from trio_tsconnect.plugins._options import as_tuple, check_field, field_names, one_of, refuse, statuses


def _fields(_instance: Any, attribute: Any, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise refuse(attribute.name, "a table of fields", value)
    for name, content in value.items():
        check_field(f"{attribute.name}.{name}", name, content)


def _hosts(_instance: Any, attribute: Any, value: Any) -> None:
    for index, host in enumerate(value):
        if not isinstance(host, str) or not host or "*" in host.removeprefix("*."):
            raise refuse(f"{attribute.name}[{index}]", 'a host, or "*." and a domain', host)


def _paths(_instance: Any, attribute: Any, value: Any) -> None:
    for index, path in enumerate(value):
        if not isinstance(path, str) or not path.startswith("/"):
            raise refuse(f"{attribute.name}[{index}]", "a path that begins with /", path)


@public("trio_tsconnect.plugins")
@attrs.resolve_types
@attrs.frozen(kw_only=True)
class HeaderRule:
    """What is done to the fields of messages that meet all conditions; a condition that is left out is met by all.

    First fields are removed, then set (in place of any of that name), then added (beside those of that name).
    """

    on: Literal["request", "response"] = attrs.field(validator=one_of("request", "response"))
    """Which message: the `request` that is sent to the origin, or the `response` that is sent to the client, whoever made it."""
    remove: tuple[str, ...] = attrs.field(default=(), converter=as_tuple, validator=field_names)
    """Names of fields that are removed."""
    set: dict[str, str] = attrs.field(factory=dict, validator=_fields, hash=False)
    """Fields that are set."""
    add: dict[str, str] = attrs.field(factory=dict, validator=_fields, hash=False)
    """Fields that are added."""
    hosts: tuple[str, ...] = attrs.field(default=(), converter=as_tuple, validator=_hosts)
    """The client asked one of these hosts; `*.example.com` is any host below that domain."""
    paths: tuple[str, ...] = attrs.field(default=(), converter=as_tuple, validator=_paths)
    """The client asked for one of these paths, or for one below it (`/v1` covers `/v1/x`, and not `/v1x`)."""
    methods: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    """The method is one of these."""
    statuses: tuple[int, ...] = attrs.field(default=(), converter=as_tuple, validator=statuses(least=100))
    """The status is one of these; for responses."""

    def __attrs_post_init__(self) -> None:
        if self.on == "request" and self.statuses:
            raise ConfigError("is a condition for responses, expected none on a request", key="statuses")

    def covers(self, txn: Transaction) -> bool:
        """Whether the message that is about to be sent meets the conditions."""
        if self.methods and (not txn.has_request or txn.request.method not in self.methods):
            return False
        if self.statuses and txn.response.status not in self.statuses:
            return False
        if not self.hosts and not self.paths:
            return True
        uri = asked_for(txn)
        if uri is None:
            return False
        path = uri.path.partition("?")[0]
        if self.hosts and not any(uri.host == host or (host.startswith("*.") and uri.host.endswith(host[1:])) for host in self.hosts):
            return False
        return not self.paths or any(path == prefix or path.startswith(prefix.rstrip("/") + "/") for prefix in self.paths)

    def apply(self, headers: Headers) -> None:
        """Change the fields."""
        if self.remove or self.set:
            headers.claim(*self.remove, *self.set)
        for name, value in self.set.items():
            headers[name] = value
        for name, value in self.add.items():
            headers.add(name, value)


@public("trio_tsconnect.plugins")
class HeaderRewrite(Plugin):
    """Applies its rules, all that match, in their order."""

    @attrs.frozen(kw_only=True)
    class Options:
        """What `HeaderRewrite` can be told."""

        rules: tuple[HeaderRule, ...] = attrs.field(converter=as_tuple)
        """What is done."""

    def __init__(self, options: Options) -> None:
        self._on_request = [rule for rule in options.rules if rule.on == "request"]
        self._on_response = [rule for rule in options.rules if rule.on == "response"]

    async def send_request(self, txn: Transaction) -> None:
        """Rewrite the request; once, for a second attempt sends the same one."""
        if txn.attempts <= 1:
            for rule in self._on_request:
                if rule.covers(txn):
                    rule.apply(txn.request.headers)

    async def send_response(self, txn: Transaction) -> None:
        """Rewrite the response."""
        for rule in self._on_response:
            if rule.covers(txn):
                rule.apply(txn.response.headers)
