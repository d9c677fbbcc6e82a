"""HeaderRewrite: set, add and remove fields of requests to the origin and of responses to the client, as configured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from trio_tsconnect import ConfigError, Headers, Plugin, Transaction
from trio_tsconnect._util import public
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
    """A change of the fields of all messages that match all conditions. A condition that is empty matches every message.

    Fields are removed first, then set (fields of that name are replaced), then added (fields of that name are kept).
    """

    on: Literal["request", "response"] = attrs.field(validator=one_of("request", "response"))
    """The message to change: the `request` to the origin, or the `response` to the client. The latter may also be an answer of the proxy or
    a plugin.
    """
    remove: tuple[str, ...] = attrs.field(default=(), converter=as_tuple, validator=field_names)
    """Names of fields to remove. A name also matches with underscores in place of hyphens."""
    set: dict[str, str] = attrs.field(factory=dict, validator=_fields, hash=False)
    """Fields to set. They replace all fields of the same name."""
    add: dict[str, str] = attrs.field(factory=dict, validator=_fields, hash=False)
    """Fields to add. Fields of the same name are kept."""
    hosts: tuple[str, ...] = attrs.field(default=(), converter=as_tuple, validator=_hosts)
    """Condition: the host that the client asked for is one of these. `*.example.com` matches every host below that domain."""
    paths: tuple[str, ...] = attrs.field(default=(), converter=as_tuple, validator=_paths)
    """Condition: the path that the client asked for is one of these, or below one (`/v1` matches `/v1/x`, but not `/v1x`)."""
    methods: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    """Condition: the method is one of these."""
    statuses: tuple[int, ...] = attrs.field(default=(), converter=as_tuple, validator=statuses(least=100))
    """Condition: the status is one of these. Only for responses."""

    def __attrs_post_init__(self) -> None:
        if self.on == "request" and self.statuses:
            raise ConfigError("is a condition for responses, but the rule is on requests", key="statuses")

    def covers(self, txn: Transaction) -> bool:
        """Return True if the message that is about to be sent matches all conditions."""
        if self.methods and (not txn.has_request or txn.request.method not in self.methods):
            return False
        if self.statuses and txn.response.status not in self.statuses:
            return False
        if not self.hosts and not self.paths:
            return True
        url = txn.url
        if url is None:
            return False
        if self.hosts and not any(url.host == host or (host.startswith("*.") and url.host.endswith(host[1:])) for host in self.hosts):
            return False
        return not self.paths or any(url.under(prefix) for prefix in self.paths)

    def apply(self, headers: Headers) -> None:
        """Change the fields in place."""
        if self.remove or self.set:
            headers.claim(*self.remove, *self.set)
        for name, value in self.set.items():
            headers[name] = value
        for name, value in self.add.items():
            headers.add(name, value)


@public("trio_tsconnect.plugins")
class HeaderRewrite(Plugin):
    """Applies all rules that match, in order."""

    @attrs.frozen(kw_only=True)
    class Options:
        """The options of `HeaderRewrite`."""

        rules: tuple[HeaderRule, ...] = attrs.field(converter=as_tuple)
        """The rules. All that match are applied, in order."""

    def __init__(self, options: Options) -> None:
        self._on_request = [rule for rule in options.rules if rule.on == "request"]
        self._on_response = [rule for rule in options.rules if rule.on == "response"]

    async def send_request(self, txn: Transaction) -> None:
        """Rewrite the request. Only before it is sent for the first time: a retry sends the same request, with the fields added already."""
        if self not in txn.data:
            txn.data[self] = True
            for rule in self._on_request:
                if rule.covers(txn):
                    rule.apply(txn.request.headers)

    async def send_response(self, txn: Transaction) -> None:
        """Rewrite the response."""
        for rule in self._on_response:
            if rule.covers(txn):
                rule.apply(txn.response.headers)
