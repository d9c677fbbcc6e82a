"""How paths are compared: every spelling that some origin reads as a path below `/private` is below it."""

from __future__ import annotations

import itertools
import re
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_tsconnect import URL, Request

# ------------------------------------------------------------------------------------------------------------------ a table of spellings

LETTERS = "private"
ENCODED = [
    "/%70rivate",
    "/pri%76ate",
    "/%70%72%69%76%61%74%65",
    "/%2570rivate",
    "/%252570rivate",
    "/%2Fprivate",
    "/%2fprivate",
    "/%5cprivate",
    "/\\private",
    "/%c0%afprivate",
    "/%e0%80%afprivate",
    "/p%c1%b2ivate",
]
AROUND = [
    "/",
    "//",
    "/./",
    "/x/../",
    "/x/..//",
    "/%2e/",
    "/x/%2e%2e/",
    "/x/.%2e/",
    "/x\\..\\",
    "/x/..;/",
    "/x/..;a=b/",
    "/;/",
    "/;a=b/",
    "/x%2f..%2f",
]
AFTER = [
    "",
    "/",
    "/notes",
    "//notes",
    "/./notes",
    ";v=1",
    ";v=1/notes",
    "/%2e",
    "%2fnotes",
    "\\notes",
    "%00",
    "%00.html",
    "?x",
    "/?x=/public",
]
SPELLINGS = sorted({*(a + LETTERS + b for a, b in itertools.product(AROUND, AFTER)), *(e + b for e in ENCODED for b in ("", "/notes"))})
OTHERS = [
    "/",
    "/public",
    "/privat",
    "/privateer",
    "/private.html",
    "/Private",
    "/x/private",
    "/x;/private",
    "/public?/private",
    "/%252",
    "/pri/vate",
    "/private%20",
    "*",
]


def test_there_are_two_hundred_spellings() -> None:
    assert len(SPELLINGS) >= 200


def url_of(target: str) -> URL:
    path, mark, query = target.partition("?")
    return URL("http", "a.test", 80, path, query if mark else None)


@pytest.mark.parametrize("target", SPELLINGS)
def test_spelling_is_under_the_prefix(target: str) -> None:
    assert url_of(target).under("/private")
    assert url_of(target).under("/private/")
    assert not url_of(target).under("/other")


@pytest.mark.parametrize("target", OTHERS)
def test_other_path_is_not_under_the_prefix(target: str) -> None:
    assert not url_of(target).under("/private")


@pytest.mark.parametrize(
    ("target", "segments"),
    [
        ("/", ()),
        ("/a/b/", ("a", "b")),
        ("/a%20b//x/../c;v=1/", ("a b", "c")),
        ("/%2561", ("a",)),
        ("/../../a", ("a",)),
        ("/caf%C3%A9", ("café",)),
        ("/%ff", ("�",)),
        ("/%", ("%",)),
        ("/%zz/%4", ("%zz", "%4")),
        ("*", ("*",)),
    ],
)
def test_segments(target: str, segments: tuple[str, ...]) -> None:
    assert url_of(target).segments == segments


@pytest.mark.parametrize("target", ["/a/b", "/a/", "/a%20b", "/%7euser", "/a.b/..c", "/caf%C3%A9", "/a?x=//;%2f"])
def test_plain_path_is_not_ambiguous(target: str) -> None:
    assert not url_of(target).ambiguous


@pytest.mark.parametrize("target", ["/a//b", "/a/./b", "/a/../b", "/a%2fb", "/a;v", "/a\\b", "/%2561", "/a%00b", "/%c0%af"])
def test_path_that_origins_read_differently_is_ambiguous(target: str) -> None:
    assert url_of(target).ambiguous


def test_allow_list_that_tests_for_ambiguity_cannot_be_left() -> None:
    for target in ("/public/..%2fprivate", "/public/../private", "/public\\..\\..\\private", "/public/..;/private", "/public//../private"):
        url = url_of(target)
        assert url.ambiguous or not url.under("/public")


@pytest.mark.parametrize(
    "target",
    [
        "/x/..//private//..",
        "/x/..//private//../y",
        "/x/%252e%252e/private/%25252e%25252e",
        "/private%3fx",
        "/private%23x",
        "/%f0%80%80%afprivate",
        "/x%u002f..%u002fprivate",
    ],
)
def test_reading_that_was_once_missing(target: str) -> None:
    assert url_of(target).under("/private")
    assert url_of(target).ambiguous


def test_path_of_very_many_segments_is_under_everything_at_once() -> None:
    """Otherwise a client could keep the proxy busy, and fill its memory, with paths."""
    url = url_of(("/a;%2f..\\//." * 900)[:8000])
    assert url.under("/private")
    assert url.ambiguous
    assert not url_of("/a" * 4000).under("/private")
    assert not url_of("/a" * 4000).ambiguous


@pytest.mark.parametrize("prefix", ["", "private", "*", "http://a/private"])
def test_prefix_that_is_no_path_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="does not begin with '/'"):
        url_of("/").under(prefix)


def test_prefix_may_be_encoded_or_not() -> None:
    assert url_of("/caf%C3%A9/x").under("/café")
    assert url_of("/caf%c3%a9/x").under("/caf%C3%A9")
    assert url_of("/a%20b").under("/a b")


# --------------------------------------------------------------------------------------------------------------- a reference decoder

HABITS = ["decode twice", "decode again", "slash", "backslash", "tail", "parameters", "dots first", "merge", "dots"]


def without_dots(names: list[str]) -> list[str]:
    kept: list[str] = []
    for name in names:
        if name == "..":
            del kept[-1:]
        elif name != ".":
            kept.append(name)
    return kept


def read_as(path: str, habits: frozenset[str]) -> list[str]:
    """One origin's reading, written in the plainest way: what it decodes, how it splits, what it drops, in this order."""
    names = []
    for piece in path[1:].split("/"):
        text = unquote(piece, errors="replace")
        if "decode twice" in habits:
            text = unquote(text, errors="replace")
        if "decode again" in habits:
            text = unquote(text, errors="replace")
        inner = ["/"] if "slash" in habits else []
        inner += ["\\\\"] if "backslash" in habits else []
        names += re.split("|".join(inner), text) if inner else [text]
    if "tail" in habits:
        for index, name in enumerate(names):
            if found := re.search(r"[\0?#]", name):
                names = [*names[:index], name[: found.start()]]
                break
    if "parameters" in habits:
        names = [name.split(";")[0] for name in names]
    if "dots first" in habits:
        names = without_dots(names)
    if "merge" in habits:
        names = [name for name in names if name]
    if "dots" in habits:
        names = without_dots(names)
    while names and not names[-1]:
        names.pop()
    return names


pieces = st.sampled_from(
    [
        "a",
        "b",
        "..",
        ".",
        "",
        ";x",
        "a;y",
        "%2e%2e",
        "%2E",
        "%61",
        "%2561",
        "%2f",
        "%5c",
        "\\",
        "..%2f",
        "%252e%252e",
        "%3bz",
        "%00",
        "%3f",
        "%23",
        "%",
    ]
)
odd_paths = st.lists(pieces, max_size=6).map(lambda parts: "/" + "/".join(parts)) | st.lists(pieces, max_size=8).map(
    lambda parts: "/" + "".join(parts)
)
habits = st.sets(st.sampled_from(HABITS)).map(frozenset)


@given(odd_paths, habits, st.sampled_from(["a", "b", "a/b"]))
def test_no_origin_reads_a_path_below_a_prefix_that_the_guard_does_not_see(path: str, reading: frozenset[str], prefix: str) -> None:
    wanted = prefix.split("/")
    if read_as(path, reading)[: len(wanted)] == wanted:
        assert url_of(path).under("/" + prefix)


@given(odd_paths)
def test_path_that_is_not_ambiguous_has_one_reading(path: str) -> None:
    if not url_of(path).ambiguous:
        readings = {tuple(read_as(path, frozenset(chosen))) for n in range(len(HABITS) + 1) for chosen in itertools.combinations(HABITS, n)}
        assert readings == {url_of(path).segments}


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="/\\;?#\0", exclude_categories=["Cs"]), min_size=1).filter(
            lambda t: t not in (".", "..") and "%" not in t
        )
    )
)
def test_names_survive_their_encoding(names: list[str]) -> None:
    url = url_of("/" + "/".join(quote(name, safe="") for name in names))
    assert url.segments == tuple(names)
    assert not url.ambiguous


# ------------------------------------------------------------------------------------------------------------------- the URL of a request


def test_url_is_the_same_in_every_form_of_the_target() -> None:
    origin_form = Request("GET", "/x?q", {"Host": "A.test:80"})
    absolute = Request("GET", "http://a.test/x?q", {"Host": "ignored.test"})
    assert origin_form.url == absolute.url == URL("http", "a.test", 80, "/x", "q")


def test_url_follows_target_and_host() -> None:
    request = Request("GET", "/x", {"Host": "a.test"})
    assert str(request.url) == "http://a.test/x"
    request.headers["Host"] = "b.test"
    request.target = "/y"
    assert str(request.url) == "http://b.test/y"


@pytest.mark.parametrize("value", ["http://b.test:8080/y?z", URL("http", "b.test", 8080, "/y", "z")])
def test_assigning_the_url_changes_target_and_host(value: URL | str) -> None:
    request = Request("GET", "/x", {"Host": "a.test"})
    request.url = value  # type: ignore[assignment]
    assert (request.target, request.headers["Host"]) == ("http://b.test:8080/y?z", "b.test:8080")
    assert str(request.url) == "http://b.test:8080/y?z"


def test_assigning_the_url_of_a_connect_keeps_its_form() -> None:
    request = Request("CONNECT", "a.test:443", {"Host": "a.test:443"})
    request.url = URL("http", "2001:db8::1", 8443)
    assert (request.target, str(request.url)) == ("[2001:db8::1]:8443", "http://[2001:db8::1]:8443/")


@pytest.mark.parametrize("value", ["/only/a/path", "ftp://a/", "http://", 5, None])
def test_invalid_url_is_refused_and_changes_nothing(value: object) -> None:
    request = Request("GET", "/x", {"Host": "a.test"})
    with pytest.raises((ValueError, TypeError)):
        request.url = value  # type: ignore[assignment]
    assert (request.target, request.headers["Host"]) == ("/x", "a.test")


def test_copy_has_the_same_url() -> None:
    request = Request("GET", "/x", {"Host": "a.test"})
    request.sent_over("https")
    assert str(request.copy().url) == "https://a.test/x"
