"""The remap table: what a rule covers, which rule wins, what becomes of the path, and that nothing climbs out."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_tsconnect.config import ConfigError, HttpConfig, OriginConfig, RemapRule, RemapTable
from trio_tsconnect.config._remap import climbs
from trio_tsconnect.message import URL


def remapped(table: RemapTable, uri: str) -> str | None:
    match = table.match(URL.parse(uri))
    return None if match is None else str(match.target)


def one(from_: str, to: str, uri: str) -> str | None:
    return remapped(RemapTable([RemapRule(from_, to)]), uri)


# --- what a rule covers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("from_", "uri", "covered"),
    [
        ("/", "http://any.example/x", True),
        ("/", "wss://any.example:1/", True),
        ("/v1/", "https://any.example/v1/x", True),
        ("/v1/", "https://any.example/v2/x", False),
        ("//h.example/", "http://h.example/", True),
        ("//h.example/", "https://h.example:8443/", True),
        ("//h.example", "https://h.example:8443/x", True),
        ("//H.Example/", "http://h.example/", True),
        ("//h.example/", "http://other.example/", False),
        ("//h.example:8080/", "http://h.example:8080/", True),
        ("//h.example:8080/", "https://h.example:8080/", True),
        ("//h.example:8080/", "http://h.example/", False),
        ("http://h.example/", "http://h.example:80/", True),
        ("http://h.example/", "http://h.example:8080/", False),
        ("http://h.example/", "https://h.example/", False),
        ("HTTP://h.example/", "http://h.example/", True),
        ("https://h.example/", "https://h.example/", True),
        ("https://h.example:80/", "https://h.example:80/", True),
        ("http://h.example/", "ws://h.example/", True),
        ("https://h.example/", "wss://h.example/", True),
        ("http://h.example/", "wss://h.example/", False),
        ("ws://h.example/", "http://h.example/", True),
        ("//[0:0::1]:81/", "http://[::1]:81/", True),
    ],
)
def test_scheme_host_and_port_are_exact_where_they_are_given(from_: str, uri: str, covered: bool) -> None:
    assert (one(from_, "http://o.example/", uri) is not None) is covered


@pytest.mark.parametrize(
    ("prefix", "path", "result"),
    [
        ("/", "/", "/b/"),
        ("/", "/x", "/b/x"),
        ("/", "/x?q=/../..", "/b/x?q=/../.."),
        ("/", "/?q", "/b/?q"),
        ("/", "//x", "/b//x"),
        ("/v1", "/v1", "/b/"),
        ("/v1", "/v1?q=1", "/b/?q=1"),
        ("/v1", "/v1?", "/b/?"),
        ("/v1", "/v1/", "/b/"),
        ("/v1", "/v1/x", "/b/x"),
        ("/v1", "/v1//x", "/b//x"),
        ("/v1", "/v1x", None),
        ("/v1", "/V1", None),
        ("/v1", "/%761", None),
        ("/v1/", "/v1/", "/b/"),
        ("/v1/", "/v1/x", "/b/x"),
        ("/v1/", "/v1//x", "/b//x"),
        ("/v1/", "/v1", None),
        ("/v1/", "/v1?/v1/", None),
    ],
)
def test_a_prefix_ends_at_a_segment_and_what_follows_is_appended_with_one_slash(prefix: str, path: str, result: str | None) -> None:
    for base in ("/b/", "/b"):
        found = one(f"//h.example{prefix}", f"http://o.example:81{base}", f"http://h.example{path}")
        # Where nothing follows the prefix, the base stands as it was written.
        if base == "/b" and path.partition("?")[0] == prefix and result is not None:
            result_here = result.replace("/b/", "/b", 1)
        else:
            result_here = result or ""
        assert found == (None if result is None else f"http://o.example:81{result_here}")


def test_the_asterisk_belongs_to_the_rule_of_the_hosts_root() -> None:
    uri = URL.parse("http://h.example/")
    star = URL(scheme=uri.scheme, host=uri.host, port=uri.port, path="*")
    match = RemapTable([RemapRule("//h.example/v1/", "http://a.example"), RemapRule("//h.example/", "http://o.example/b/")]).match(star)
    assert match is not None
    assert (match.target.host, match.target.path) == ("o.example", "*")
    assert RemapTable([RemapRule("//h.example/v1/", "http://a.example")]).match(star) is None


# --- which rule wins -----------------------------------------------------------------------------------------------------------------


def test_the_host_counts_before_scheme_and_port_and_these_before_the_path_and_that_before_the_order() -> None:
    rules = [
        RemapRule("/long/path/", "http://any"),
        RemapRule("//h.example/long/path/", "http://host"),
        RemapRule("//h.example:80/long/", "http://port"),
        RemapRule("http://h.example/", "http://scheme"),
        RemapRule("http://h.example/long", "http://scheme-long"),
        RemapRule("http://h.example/long", "http://too-late"),
    ]
    path = "http://h.example/long/path/x"
    expected = ["scheme-long", "scheme-long", "scheme", "port", "host", "any"]
    for name in expected:
        match = RemapTable(rules).match(URL.parse(path))
        assert match is not None
        assert match.target.host in (name, "too-late")
        rules.remove(match.rule)
    assert RemapTable(rules).match(URL.parse(path)) is None


def test_of_two_equal_rules_the_first_counts() -> None:
    table = RemapTable([RemapRule("//h.example/", "http://first"), RemapRule("//h.example", "http://second")])
    assert remapped(table, "http://h.example/") == "http://first/"


def test_a_more_exact_rule_that_does_not_cover_the_path_leaves_it_to_the_others() -> None:
    table = RemapTable([RemapRule("http://h.example/v1/", "http://a"), RemapRule("/", "http://b")])
    assert remapped(table, "http://h.example/v2/") == "http://b/v2/"


def test_an_empty_table_covers_nothing() -> None:
    assert remapped(RemapTable(), "http://h.example/") is None


# --- climbing out --------------------------------------------------------------------------------------------------------------------

ESCAPES = [
    "../admin",
    "..",
    "%2e%2e/admin",
    "%2E./admin",
    ".%2e",
    "x/../../admin",
    "x/%2e%2e/%2E%2E/admin",
    "x%2f../../admin",
    "x%2f%2e%2e/%2e%2e",
    "..%2fadmin",
    "..\\admin",
    "..%5cadmin",
    "..;/admin",
    "..;a=b/admin",
    "..%3b/admin",
    "//../../x",
    "x//../../y",
    "./../x",
    "%2e/../x",
    ";a/../x",
]


@pytest.mark.parametrize("rest", ESCAPES)
def test_a_path_that_climbs_above_its_prefix_has_no_rule_at_all(rest: str) -> None:
    # Not even the rule for everything: it might lead to the same origin, by the way that the first rule closes.
    table = RemapTable([RemapRule("//h.example/v1/", "http://o.example/b/"), RemapRule("/", "http://o.example/")])
    uri = URL(scheme="http", host="h.example", port=80, path=f"/v1/{rest}")
    assert table.match(uri) is None
    assert RemapTable([RemapRule("//h.example/v1", "http://o.example/b")]).match(uri) is None


@pytest.mark.parametrize(
    "rest", ["x/../y", "x/..", "...", "..x", "x..", "a/b/../..", "x;../y", "x%2f/../y", "x?../../..", "%252e%252e/x", "x/%2e%2e"]
)
def test_dots_that_stay_below_the_prefix_pass_as_they_are(rest: str) -> None:
    assert one("//h.example/v1/", "http://o.example/b/", f"http://h.example/v1/{rest}") == f"http://o.example/b/{rest}"


# --- against a naive model -----------------------------------------------------------------------------------------------------------

HOSTS = ["a.example", "b.example"]
SEGMENTS = st.lists(st.sampled_from(["v1", "v", "x", "", "a.b", "..", ".", "%2e%2e", "x%2f"]), max_size=4)
PLAIN_SEGMENTS = st.lists(st.sampled_from(["v1", "v", "x", "", "a.b"]), max_size=3)
AUTHORITIES = st.sampled_from(
    [
        "",
        *(f"//{h}{p}" for h in HOSTS for p in ("", ":81")),
        *(f"{s}://{h}{p}" for s in ("http", "https") for h in HOSTS for p in ("", ":81")),
    ]
)


@st.composite
def rules(draw: st.DrawFn) -> tuple[str, str]:
    prefix = "/" + "/".join(draw(PLAIN_SEGMENTS))
    authority = draw(AUTHORITIES)
    if not authority and prefix.startswith("//"):
        prefix = "/"
    return authority + prefix, f"http://o{draw(st.integers(0, 9))}.example" + "/" + "/".join(draw(PLAIN_SEGMENTS))


@st.composite
def uris(draw: st.DrawFn) -> URL:
    path = "/" + "/".join(draw(SEGMENTS))
    return URL(
        scheme=draw(st.sampled_from(["http", "https"])),
        host=draw(st.sampled_from(HOSTS)),
        port=draw(st.sampled_from([80, 443, 81])),
        path=path,
        query=draw(st.sampled_from([None, "", "q=../.."])),
    )


def naive_rank(index: int, from_: str, uri: URL) -> tuple[int, int, int, int, int] | None:
    """How well a rule fits, by a reading of its text alone; None when it does not."""
    found = re.fullmatch(r"(?:(?:(https?):)?//([^/:]+)(?::(\d+))?)?(/.*)", from_)
    assert found is not None
    scheme, host, port, prefix = found.groups()
    wanted_port = int(port) if port else {"http": 80, "https": 443, None: None}[scheme]
    path = uri.path
    below = prefix if prefix.endswith("/") else prefix + "/"
    if (scheme and scheme != uri.scheme) or (host and host != uri.host) or (wanted_port and wanted_port != uri.port):
        return None
    if path != prefix and not path.startswith(below):
        return None
    return bool(host), bool(scheme), bool(wanted_port), len(prefix), -index


def naive_climbs(rest: str) -> bool:
    depth = 0
    for segment in rest.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(segment, 1)
        if depth < 0:
            return True
    return False


@given(st.lists(rules(), max_size=6), uris())
def test_the_table_agrees_with_a_naive_model(texts: list[tuple[str, str]], uri: URL) -> None:
    ranked = [(rank, text) for i, text in enumerate(texts) if (rank := naive_rank(i, text[0], uri)) is not None]
    match = RemapTable(RemapRule(*text) for text in texts).match(uri)
    if not ranked:
        assert match is None
        return
    (_, _, _, prefix_length, _), (from_, to) = max(ranked)
    rest = uri.path[prefix_length:]
    if naive_climbs(rest) or naive_climbs(unquote(rest)):
        assert match is None
    elif match is None:
        assert re.search(r"%|//|/\.|;|\\", uri.path)  # stricter than the model only where a path can be read in several ways
    else:
        assert (match.rule.from_, match.rule.to) == (from_, to)
        host, _, base = to.removeprefix("http://").partition("/")
        joined = "/" + base if not rest else ("/" + base).removesuffix("/") + "/" + (rest if from_.endswith("/") else rest[1:])
        assert str(match.target) == f"http://{host}{joined}" + ("" if uri.query is None else f"?{uri.query}")


@example(";\\2/..")  # all of `;\2` may be a parameter
@given(st.text(alphabet="./\\;%25efcEFCx", max_size=24))
def test_no_reading_of_a_path_climbs_that_was_let_pass(rest: str) -> None:
    if not climbs(rest):
        readings = [rest, unquote(rest), rest.replace("%2e", ".").replace("%2E", "."), re.sub("//+", "/", rest), rest.replace("\\", "/")]
        readings += [re.sub(r";[^/]*", "", reading) for reading in readings]
        readings += [re.sub(r"[\\]", "/", reading) for reading in readings]
        assert not any(map(naive_climbs, readings))


# --- what a rule may say --------------------------------------------------------------------------------------------------------------

FROM = 'from_: must be "http://host/path", "//host/path" (any scheme) or "/path" (any host), got '
TO = 'to: must be "http://host/path", "https://host/path", "unix:/socket" (with ":/path" after it for a base path) or "asgi:package.module:app", got '
NO_PATH = "expected one that starts with / and has no query, fragment, space or stray %"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("", "http://o"), FROM + '""'),
        (("h.example/", "http://o"), FROM + '"h.example/"'),
        ((3, "http://o"), FROM + "3"),
        (("http:/h", "http://o"), FROM + '"http:/h"'),
        (("ftp://h/", "http://o"), 'from_: unknown scheme "ftp", expected http, https, ws or wss'),
        (("//h:99999/", "http://o"), 'from_: "h:99999" in "//h:99999/" is not a host, expected host, host:port or [v6]:port'),
        (("//h:0/", "http://o"), 'from_: "h:0" in "//h:0/" is not a host, expected host, host:port or [v6]:port'),
        (("///x", "http://o"), 'from_: "" in "///x" is not a host, expected host, host:port or [v6]:port'),
        (("//u@h/", "http://o"), 'from_: "u@h" in "//u@h/" is not a host, expected host, host:port or [v6]:port'),
        (("//*.h.example/", "http://o"), 'from_: "*.h.example" has a wildcard, expected one host, or /path alone for any host'),
        (("//h/a?b", "http://o"), f'from_: "/a?b" is not a path, {NO_PATH}'),
        (("//h/a b", "http://o"), f'from_: "/a b" is not a path, {NO_PATH}'),
        (("/a\r\nb", "http://o"), f'from_: "/a\\r\\nb" is not a path, {NO_PATH}'),
        (("/50%", "http://o"), f'from_: "/50%" is not a path, {NO_PATH}'),
        (("/a/../b", "http://o"), 'from_: "/a/../b" has dot segments, expected a path without them'),
        (("/a/%2e", "http://o"), 'from_: "/a/%2e" has dot segments, expected a path without them'),
        (("/", "o.example:80"), TO + '"o.example:80"'),
        (("/", ""), TO + '""'),
        (("/", None), TO + "None"),
        (("/", "http:o"), TO + '"http:o"'),
        (("/", "http://"), 'to: "" in "http://" is not a host, expected host, host:port or [v6]:port'),
        (("/", "http://o:x/"), 'to: "o:x" in "http://o:x/" is not a host, expected host, host:port or [v6]:port'),
        (("/", "http://o/#x"), f'to: "/#x" is not a path, {NO_PATH}'),
        (("/", "unix:app.sock"), 'to: must be "unix:" and an absolute path, got "unix:app.sock"'),
        (("/", "unix:"), 'to: must be "unix:" and an absolute path, got "unix:"'),
        (("/", "unix:/s:/a b"), f'to: "/a b" is not a path, {NO_PATH}'),
    ],
)
def test_a_rule_that_cannot_be_read_is_refused_when_it_is_made(arguments: tuple[Any, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RemapRule(*arguments)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"preserve_host": 1}, "preserve_host: must be true or false, got 1"),
        ({"verify": "no"}, 'verify: must be true or false, got "no"'),
        ({"ca_file": ""}, 'ca_file: must be the name of a file, got ""'),
        ({"ca_file": "ca.pem", "verify": False}, "ca_file: has no effect while verify is false, expected only one of the two"),
        ({"config": 3}, "config: must be a table of options, got 3"),
        ({"config": {"retrys": 3}}, 'config.retrys: cannot be set for one rule; did you mean "retries"?'),
        ({"config": {"retries": -1}}, "config.retries: must be a whole number, 0 or more, got -1"),
        ({"config": {"inactivity_timeout": True}}, "config.inactivity_timeout: must be a number of seconds, more than 0, got true"),
    ],
)
def test_an_option_of_a_rule_is_judged_when_it_is_made(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RemapRule("/", "http://o", **options)
    assert str(caught.value) == line


def test_what_concerns_the_whole_proxy_cannot_be_set_for_one_rule() -> None:
    with pytest.raises(ConfigError, match=r"^config\.remap_required: cannot be set for one rule, expected one of connect_timeout, "):
        RemapRule("/", "http://o", config={"remap_required": False})


@pytest.mark.parametrize(
    ("to", "unix", "uri"),
    [
        ("http://O.Example", None, "http://o.example/"),
        ("https://o.example:8443/b", None, "https://o.example:8443/b"),
        ("http://[::1]:9000/b/", None, "http://[::1]:9000/b/"),
        ("unix:/run/app.sock", "/run/app.sock", "http://localhost/"),
        ("unix:/run/app.sock:/b/", "/run/app.sock", "http://localhost/b/"),
    ],
)
def test_a_rule_knows_where_it_leads(to: str, unix: str | None, uri: str) -> None:
    rule = RemapRule("/", to)
    assert (rule.unix, str(rule.target)) == (unix, uri)


def test_a_rule_overrides_what_it_names_and_nothing_else() -> None:
    rule = RemapRule("/", "https://o", ca_file="ca.pem", config={"inactivity_timeout": 5, "response_timeout": 600})
    http, origin = HttpConfig(max_fields=7), OriginConfig(verify=False, retries=3)
    assert rule.http_config(http) == HttpConfig(max_fields=7, inactivity_timeout=5)
    assert rule.origin_config(origin) == OriginConfig(retries=3, response_timeout=600, ca_file="ca.pem", verify=True)


def test_a_rule_may_leave_its_origin_unverified_where_the_proxy_names_authorities() -> None:
    rule = RemapRule("/", "https://o", verify=False)
    assert rule.origin_config(OriginConfig(ca_file="ca.pem")) == OriginConfig(verify=False)


def test_a_rule_that_insists_on_verification_gets_it() -> None:
    assert RemapRule("/", "https://o", verify=True).origin_config(OriginConfig(verify=False)) == OriginConfig(verify=True)


def test_a_table_tells_how_many_rules_it_has() -> None:
    table = RemapTable([RemapRule("/", "http://o")])
    assert repr(table) == "<RemapTable: 1 rules>"
    assert table.rules == (RemapRule("/", "http://o"),)


def test_a_rule_that_overrides_nothing_makes_no_copy() -> None:
    http, origin = HttpConfig(), OriginConfig()
    rule = RemapRule("/", "http://o")
    assert rule.http_config(http) is http
    assert rule.origin_config(origin) is origin


def test_equal_rules_are_equal_and_a_rule_can_be_a_key() -> None:
    one_rule, other = (RemapRule("/", "http://o", config={"retries": 2}) for _ in range(2))
    assert one_rule == other
    assert len({one_rule, other}) == 1
    assert repr(RemapRule("/", "http://o")).startswith("RemapRule(from_='/', to='http://o', preserve_host=False")


def test_the_overrides_of_a_rule_are_its_own() -> None:
    options: dict[str, object] = {"retries": 2}
    rule = RemapRule("/", "http://o", config=options)
    options["retries"] = -1
    assert rule.config == {"retries": 2}


@pytest.mark.parametrize(
    "path",
    ["/%61dmin", "//admin", "/x/../admin", "/./admin", "/x/%2e%2e/admin", "/;/admin", "/admin;x", "/admin%2fx", "/%2561dmin/../admin/x"],
)
def test_another_spelling_does_not_walk_around_a_rule(path: str) -> None:
    table = RemapTable([RemapRule("//h.example/", "http://o.example/"), RemapRule("//h.example/admin", "http://a.example/")])
    match = table.match(URL("http", "h.example", 80, path))
    assert match is None or match.rule.from_ == "//h.example/admin"


def test_another_spelling_within_one_rule_is_no_matter() -> None:
    table = RemapTable([RemapRule("//h.example/", "http://o.example/"), RemapRule("//h.example/admin", "http://a.example/")])
    for path in ("/%62", "//b", "/a;p", "/x/./y"):
        match = table.match(URL("http", "h.example", 80, path))
        assert match is not None
        assert match.rule.from_ == "//h.example/"
