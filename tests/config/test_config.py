"""Configuration values: every default, every refusal, and what is worth a warning."""

from __future__ import annotations

import ast
import importlib
import itertools
import math
import re
from pathlib import Path
from typing import Any

import attrs
import pytest

from trio_tsconnect.config import (
    ConfigError,
    Http2Limits,
    HttpConfig,
    ListenConfig,
    LogConfig,
    OriginConfig,
    ProxyConfig,
    RateLimit,
    RemapRule,
    RotateConfig,
    TlsFiles,
    warnings,
)
from trio_tsconnect.log import FORMATS


def test_the_defaults_are_the_documented_ones() -> None:
    http, origin = HttpConfig(), OriginConfig()
    assert http.remap_required is True
    assert (http.inactivity_timeout, http.header_timeout, http.keep_alive_timeout) == (120, 10, 60)
    assert (http.transaction_timeout, http.drain_timeout, http.gone_check_interval) == (None, 10, 0.25)
    assert (http.max_request_line, http.max_head, http.max_fields, http.max_request_body) == (8192, 32768, 100, None)
    assert (http.half_close, http.parser, http.connect) == ("abort", "h11", ())
    assert (http.trust_forwarded, http.unknown_expect) == (False, "refuse")
    assert origin.verify is True
    assert (origin.connect_timeout, origin.response_timeout) == (10, 120)
    assert (origin.max_connections, origin.wait_timeout, origin.max_idle) == (None, 10, 64)
    assert LogConfig().flush_interval == 0.2
    assert RemapRule("/", "http://origin.example").preserve_host is False
    assert ProxyConfig() == ProxyConfig(remap=(), http=http, origin=origin, log=None, access=(), listen=(), plugins=())


TIMES = [
    *(
        ("http", name)
        for name in ("inactivity_timeout", "header_timeout", "keep_alive_timeout", "transaction_timeout", "gone_check_interval")
    ),
    *(("http", name) for name in ("drain_timeout", "close_timeout", "linger_timeout")),
    *(("origin", name) for name in ("connect_timeout", "response_timeout", "wait_timeout", "keep_alive_timeout")),
    ("log", "flush_interval"),
]
MAY_BE_ZERO = {"drain_timeout", "close_timeout", "linger_timeout", "wait_timeout", "flush_interval", ("origin", "keep_alive_timeout")}
CLASSES: dict[str, Any] = {"http": HttpConfig, "origin": OriginConfig, "log": LogConfig}


@pytest.mark.parametrize(("part", "name"), TIMES)
@pytest.mark.parametrize("value", [-1, math.nan, "10", True, [1]])
def test_a_time_that_is_none_is_refused_by_name(part: str, name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: must be a number of seconds, .* got "):
        CLASSES[part](**{name: value})


@pytest.mark.parametrize(("part", "name"), TIMES)
def test_a_time_may_be_infinite_and_zero_only_where_zero_means_something(part: str, name: str) -> None:
    assert getattr(CLASSES[part](**{name: math.inf}), name) == math.inf
    if name in MAY_BE_ZERO or (part, name) in MAY_BE_ZERO:
        assert getattr(CLASSES[part](**{name: 0}), name) == 0
    else:
        with pytest.raises(ConfigError, match=f"^{name}: must be a number of seconds, more than 0, got 0$"):
            CLASSES[part](**{name: 0})


COUNTS = [
    ("http", "max_request_line", 16),
    ("http", "max_head", 64),
    ("http", "max_fields", 1),
    ("http", "max_request_body", 0),
    ("http", "max_requests_per_connection", 1),
    ("http", "max_connections", 1),
    ("http", "drain_body", 0),
    ("http", "max_descendants", 1),
    ("http", "min_rate", 1),
    ("http", "max_concurrent_internal", 1),
    ("origin", "max_connections", 1),
    ("origin", "max_idle", 0),
    ("origin", "retries", 0),
    ("origin", "max_retries", 0),
    ("origin", "max_interim", 0),
]


@pytest.mark.parametrize(("part", "name", "least"), COUNTS)
def test_a_count_is_a_whole_number_with_a_lower_bound(part: str, name: str, least: int) -> None:
    assert getattr(CLASSES[part](**{name: least}), name) == least
    for value in (least - 1, True, 5.0, "5"):
        with pytest.raises(ConfigError, match=f"^{name}: must be a whole number(?: of bytes)?, {least} or more, got "):
            CLASSES[part](**{name: value})


def test_depth_of_a_tree_is_one_that_the_interpreter_survives() -> None:
    assert HttpConfig(max_depth=64).max_depth == 64
    for value in (0, 65):
        with pytest.raises(ConfigError, match=f"^max_depth: must be a whole number, 1 to 64, got {value}$"):
            HttpConfig(max_depth=value)


@pytest.mark.parametrize(
    ("part", "name"),
    [("http", "remap_required"), ("http", "trust_forwarded"), ("origin", "verify")],
)
@pytest.mark.parametrize("value", [1, 0, "true", None])
def test_a_flag_is_a_bool_and_nothing_like_one(part: str, name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: must be true or false, got "):
        CLASSES[part](**{name: value})


@pytest.mark.parametrize("name", ["half_close", "forwarded", "expect", "unknown_expect", "parser"])
@pytest.mark.parametrize("value", ["Abort", "", True, None, ["abort"]])
def test_a_choice_is_one_of_its_words(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f'^{name}: must be ".*" or ".*", got '):
        HttpConfig(**{name: value})  # type: ignore[arg-type]


REFUSALS: list[tuple[Any, dict[str, Any], str]] = [
    (HttpConfig, {"via": "two words"}, 'via: must be a token (letters, digits, "-", "_", "."), or empty for no Via, got "two words"'),
    (HttpConfig, {"via": "a\r\nX: 1"}, 'via: must be a token (letters, digits, "-", "_", "."), or empty for no Via, got "a\\r\\nX: 1"'),
    (HttpConfig, {"connect": ["*:443", "x"]}, 'connect[1]: must be "host:port", such as "*:443" or "*.example:8443", got "x"'),
    (HttpConfig, {"connect": [443]}, 'connect[0]: must be "host:port", such as "*:443" or "*.example:8443", got 443'),
    (OriginConfig, {"ca_file": ""}, 'ca_file: must be the name of a file, got ""'),
    (OriginConfig, {"ca_file": 3}, "ca_file: must be the name of a file, got 3"),
    (OriginConfig, {"ca_file": "ca.pem", "verify": False}, "ca_file: has no effect while verify is false, expected only one of the two"),
    (Http2Limits, {"buffer_index": 15}, "buffer_index: must be a whole number, 0 to 14, got 15"),
    (Http2Limits, {"connection_window": 65534}, "connection_window: must be a whole number of bytes, 65535 to 2147483647, got 65534"),
    (Http2Limits, {"max_concurrent_streams": 10.0}, "max_concurrent_streams: must be a whole number, 1 or more, got 10.0"),
    (Http2Limits, {"resets": (200, 33)}, "resets: must be a RateLimit, in a file a table of `burst` and `rate`, got (200, 33)"),
    (RateLimit, {"burst": True, "rate": 1}, "burst: must be a whole number, 0 or more, got true"),
    (RateLimit, {"burst": 1, "rate": -0.5}, "rate: must be a number per second, 0 or more, got -0.5"),
    (RateLimit, {"burst": 1, "rate": -(10**400)}, f"rate: must be a number per second, 0 or more, got -1{'0' * 75}..."),
    (RateLimit, {"burst": 1, "rate": math.nan}, "rate: must be a number per second, 0 or more, got nan"),
    (ProxyConfig, {"http2": {}}, "http2: must be an Http2Limits, got {}"),
    (LogConfig, {"format": "combind"}, 'format: unknown format "combind"; did you mean "combined"?'),
    (
        LogConfig,
        {"format": "xml"},
        f'format: unknown format "xml", expected one of {", ".join(FORMATS)}, or a format string such as "%<chi> %<cqtx>"',
    ),
    (LogConfig, {"format": "%<chj>"}, 'format: unknown code %<chj>; did you mean "chp"?'),
    (LogConfig, {"format": 1}, "format: must be one of json, common, combined, squid, ltsv, otel, or a format string, got 1"),
    (LogConfig, {"filter": "statsu = 1"}, 'filter: position 1: there is no field statsu; did you mean "status"?'),
    (LogConfig, {"filter": 5}, "filter: must be an expression such as status >= 500, got 5"),
    (LogConfig, {"sample": 1.5}, "sample: must be a number from 0 to 1, got 1.5"),
    (LogConfig, {"on_overflow": "block"}, 'on_overflow: must be "drop": "block" would stop the whole proxy while a disk is slow'),
    (LogConfig, {"on_overflow": "x"}, 'on_overflow: must be "drop", got "x"'),
    (LogConfig, {"request_headers": ["a b"]}, 'request_headers[0]: must be the name of a field, got "a b"'),
    (LogConfig, {"flush_interval": -1}, "flush_interval: must be a number of seconds, 0 or more, got -1"),
    (LogConfig, {"max_pending": 0}, "max_pending: must be a whole number, 1 or more, got 0"),
    (LogConfig, {"query": 1}, "query: must be true or false, got 1"),
    (
        LogConfig,
        {"path": "syslog:x"},
        'path: "syslog:x" is not complete, expected "syslog:", "syslog:/path", "syslog:udp://host:port" or "syslog:tcp://host:port"',
    ),
    (LogConfig, {"path": "| "}, 'path: "| " is not complete, expected a command after "|", such as "|gzip > log.gz"'),
    (LogConfig, {"path": "logging:"}, 'path: "logging:" is not complete, expected the name of a logger, such as "logging:access"'),
    (
        LogConfig,
        {"path": "-", "rotate": RotateConfig(size=1)},
        "rotate: has no effect on a destination that is no file, expected the path of one",
    ),
    (LogConfig, {"rotate": {"size": 1}}, "rotate: must be a RotateConfig or None, got {'size': 1}"),
    (RotateConfig, {}, "has neither size nor every, expected at least one of them"),
    (RotateConfig, {"size": "100 XB"}, 'size: must be a number of bytes, 1 or more, or such as "100 MB", got "100 XB"'),
    (RotateConfig, {"every": "1 month"}, 'every: must be a number of seconds, 1 or more, or such as "1 day", got "1 month"'),
    (RotateConfig, {"size": 1, "keep": -1}, "keep: must be a whole number, 0 or more, got -1"),
    (RotateConfig, {"size": 1, "compress": 1}, "compress: must be true or false, got 1"),
    (LogConfig, {"path": "a\0b"}, 'path: must be the name of a file, got "a\\x00b"'),
    (ListenConfig, {"tls": {"certificate": "c"}}, "tls: must be a certificate and a key, got {'certificate': 'c'}"),
    (TlsFiles, {"certificate": "c.pem", "key": None}, "key: must be the name of a file, got None"),
    (ProxyConfig, {"http": {}}, "http: must be an HttpConfig, got {}"),
    (ProxyConfig, {"origin": None}, "origin: must be an OriginConfig, got None"),
    (ProxyConfig, {"log": "a.jsonl"}, 'log[0]: must be a LogConfig, got "a.jsonl"'),
    (ProxyConfig, {"remap": [("/", "http://o")]}, "remap[0]: must be a RemapRule, got ('/', 'http://o')"),
    (ProxyConfig, {"listen": "127.0.0.1:80"}, 'listen[0]: must be a ListenConfig, got "127.0.0.1:80"'),
    (ProxyConfig, {"access": [{"action": "deny"}]}, "access[0]: must be an AccessRule, got {'action': 'deny'}"),
    (ProxyConfig, {"plugins": [object]}, "plugins[0]: must be a Plugin, got <class 'object'>"),
    (
        ProxyConfig,
        {"listen": [ListenConfig("127.0.0.1:80"), ListenConfig("127.0.0.1:80")]},
        'listen[1].address: "127.0.0.1:80" is already the address of listen[0], expected a different one',
    ),
]


@pytest.mark.parametrize(("kind", "arguments", "line"), REFUSALS, ids=[case[2].partition(" ")[0] for case in REFUSALS])
def test_a_refusal_is_one_line_that_names_the_field(kind: Any, arguments: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=re.compile(f"^{re.escape(line)}$")) as caught:
        kind(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["8443", "127.0.0.1", "127.0.0.1:", ":8443", "*:8443", "127.0.0.1:65536", "::1:80", "a b:80", 8443, None]
)
def test_a_listener_needs_host_and_port(address: Any) -> None:
    with pytest.raises(ConfigError, match=r'^address: must be "host:port", such as "127\.0\.0\.1:8443" or "\[::1\]:8443", got '):
        ListenConfig(address)


@pytest.mark.parametrize(
    ("address", "host", "port"), [("127.0.0.1:0", "127.0.0.1", 0), ("[::1]:8443", "::1", 8443), ("localhost:80", "localhost", 80)]
)
def test_a_listener_knows_its_host_and_port(address: str, host: str, port: int) -> None:
    listen = ListenConfig(address)
    assert (listen.host, listen.port) == (host, port)


def test_two_listeners_may_both_take_a_free_port() -> None:
    assert len(ProxyConfig(listen=[ListenConfig("127.0.0.1:0")] * 2).listen) == 2


def test_an_empty_via_is_none() -> None:
    with pytest.raises(ConfigError, match=r"^via: "):
        HttpConfig(via=False)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^via: "):
        HttpConfig(via="\udc80")
    assert HttpConfig(via="").via is None
    assert HttpConfig(via=None).via is None


@pytest.mark.parametrize(
    "pattern", ["x", "x:", ":443", "*", "x:0", "x:65536", "x:y", "*x:443", "a.*:443", "*.*:443", "x/y:443", "::1:443", ""]
)
def test_a_connect_pattern_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"^connect\[0\]: "):
        HttpConfig(connect=(pattern,))


@pytest.mark.parametrize(
    ("pattern", "host", "port", "permitted"),
    [
        ("*:443", "any.example", 443, True),
        ("*:443", "any.example", 80, False),
        ("Site.Example:443", "site.example", 443, True),
        ("site.example:443", "SITE.example", 443, True),
        ("site.example:443", "www.site.example", 443, False),
        ("*.site.example:*", "www.site.example", 8080, True),
        ("*.site.example:*", "site.example", 8080, False),
        ("*.site.example:*", "evilsite.example", 8080, False),
        ("*.site.example:*", ".site.example", 8080, False),
        ("[0:0::1]:443", "::1", 443, True),
    ],
)
def test_connect_goes_only_where_a_pattern_permits(pattern: str, host: str, port: int, permitted: bool) -> None:
    assert HttpConfig(connect=[pattern]).permits_connect(host, port) is permitted


def test_connect_goes_nowhere_by_default() -> None:
    assert not HttpConfig().permits_connect("any.example", 443)


def test_lists_become_tuples_and_values_cannot_be_changed() -> None:
    config = ProxyConfig(remap=[RemapRule("/", "http://origin.example")])
    assert isinstance(config.remap, tuple)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        config.http.remap_required = False  # type: ignore[misc]


def test_evolving_a_value_judges_it_again() -> None:
    with pytest.raises(ConfigError, match=r"^max_fields: "):
        attrs.evolve(HttpConfig(), max_fields=0)


def test_an_error_tells_its_parts_and_never_takes_two_lines() -> None:
    error = ConfigError('must be one, got "a\nb"', key="http.x", file="p.toml")
    assert str(error) == 'p.toml: http.x: must be one, got "a\\nb"'
    assert (error.file, error.key) == ("p.toml", "http.x")


@pytest.mark.parametrize("module", ["_options", "_config", "_remap"])
def test_every_field_says_what_it_means(module: str) -> None:
    source = Path(importlib.import_module(f"trio_tsconnect.config.{module}").__file__ or "").read_text()
    for kind in ast.walk(ast.parse(source)):
        if isinstance(kind, ast.ClassDef):
            for statement, after in itertools.pairwise(kind.body):
                if isinstance(statement, ast.AnnAssign):
                    assert ast.unparse(after)[0] in "'\"", ast.unparse(statement)


LOOPBACK = ["127.0.0.1:80", "127.8.9.10:80", "[::1]:80", "localhost:80", "[::ffff:127.0.0.1]:80"]
EXPOSED = ["0.0.0.0:80", "[::]:80", "192.0.2.1:80", "proxy.example:80", "proxy.localhost:80"]


@pytest.mark.parametrize("address", EXPOSED)
def test_an_open_proxy_on_a_reachable_address_is_warned_of(address: str) -> None:
    config = ProxyConfig(http=HttpConfig(remap_required=False), listen=[ListenConfig("127.0.0.1:80"), ListenConfig(address)])
    where = f"listen[1] ({address})"
    assert warnings(config) == [
        f"http.remap_required: is false: an open proxy: any client that can reach {where} can reach any origin through it"
    ]


@pytest.mark.parametrize("address", LOOPBACK)
def test_an_open_proxy_on_loopback_is_nothing_to_warn_of(address: str) -> None:
    http = HttpConfig(remap_required=False, connect=["*:443"], trust_forwarded=True)
    assert warnings(ProxyConfig(http=http, listen=[ListenConfig(address)])) == []


def test_what_else_is_likely_to_be_a_mistake_is_warned_of() -> None:
    http = HttpConfig(connect=["a.example:443", "*:443"], trust_forwarded=True)
    rules = [
        RemapRule("http://a.example/", "https://o.example", verify=False),
        RemapRule("//a.example/", "https://o.example"),
        RemapRule("ws://a.example:80", "https://p.example"),
    ]
    config = ProxyConfig(http=http, origin=OriginConfig(verify=False), listen=[ListenConfig("0.0.0.0:80")], remap=rules)
    where = "listen[0] (0.0.0.0:80)"
    assert warnings(config) == [
        f'http.connect[1]: "*:443" allows every host: any client that can reach {where} can tunnel to any host',
        f"http.trust_forwarded: is true: any client that can reach {where} can claim any client address",
        "origin.verify: is false: an attacker on the network path can impersonate any https origin",
        "remap[0].verify: is false: an attacker on the network path can impersonate o.example",
        "remap[2].from: is never used: remap[0] matches the same requests",
    ]


def test_a_listener_without_any_rule_is_warned_of() -> None:
    assert warnings(ProxyConfig(listen=[ListenConfig("127.0.0.1:80")])) == [
        "remap: there is no rule and http.remap_required is true: every request will be answered 404"
    ]
    assert warnings(ProxyConfig()) == []


def test_the_values_show_their_public_path() -> None:
    for kind in (ProxyConfig, HttpConfig, OriginConfig, LogConfig, ListenConfig, TlsFiles, RemapRule, ConfigError):
        assert kind.__module__ == "trio_tsconnect"


@pytest.mark.parametrize(
    ("size", "number"), [("100 MB", 10**8), ("1gib", 2**30), ("1.5 kB", 1500), ("7", 7), ("7 B", 7), (5, 5), (None, None)]
)
def test_sizes_have_units(size: Any, number: int | None) -> None:
    assert RotateConfig(size=size, every=60).size == number


@pytest.mark.parametrize(
    ("every", "number"), [("1 day", 86400), ("2 Weeks", 1209600), ("1.5 hours", 5400), ("90 seconds", 90), (90.5, 90.5)]
)
def test_times_have_units(every: Any, number: float) -> None:
    assert RotateConfig(every=every).every == number


def test_one_log_several_and_none_become_a_tuple() -> None:
    one = LogConfig("a")
    assert ProxyConfig(log=one) == ProxyConfig(log=[one]) == ProxyConfig(log=(one,))
    assert ProxyConfig(log=None).log == ProxyConfig().log == ()
