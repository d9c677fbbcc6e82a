from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_tsconnect.message import Headers, is_token, split_list

TCHAR = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
names = st.sampled_from(["Accept", "accept", "ACCEPT", "Host", "X-Y", "x-y"]) | st.text(TCHAR, min_size=1, max_size=8)
values = st.text([chr(code) for code in [0x09, *range(0x20, 0x7F), *range(0x80, 0x100)]], max_size=12).map(lambda text: text.strip(" \t"))
pairs = st.lists(st.tuples(names, values), max_size=8)


def same(name: str) -> Callable[[tuple[str, str]], bool]:
    return lambda pair: pair[0].lower() == name.lower()


@given(pairs)
def test_lines_come_back_in_order_and_as_written(model: list[tuple[str, str]]) -> None:
    headers = Headers(model)
    assert headers.items() == model
    assert list(headers) == headers.keys() == [name for name, _ in model]
    assert len(headers) == len(model)
    assert headers.raw() == [(name.encode("latin-1"), value.encode("latin-1")) for name, value in model]
    assert Headers(headers.raw()) == headers


@given(pairs, names)
def test_a_lookup_joins_every_line_of_the_name_whatever_its_case(model: list[tuple[str, str]], name: str) -> None:
    headers = Headers(model)
    found = [value for _, value in filter(same(name), model)]
    assert headers.get_all(name) == found
    assert headers.get(name) == (", ".join(found) if found else None)
    assert (name in headers) == (name.upper() in headers) == (name.encode() in headers) == bool(found)
    if found:
        assert headers[name] == headers[name.encode()] == ", ".join(found)
    else:
        with pytest.raises(KeyError):
            headers[name]


@given(pairs, names, values)
def test_assignment_leaves_one_line_where_the_first_was(model: list[tuple[str, str]], name: str, value: str) -> None:
    headers = Headers(model)
    headers[name] = value
    positions = [position for position, pair in enumerate(model) if same(name)(pair)]
    expected = [pair for pair in model if not same(name)(pair)]
    expected.insert(positions[0] if positions else len(expected), (name, value))
    assert headers.items() == expected


@given(pairs, names)
def test_deletion_takes_every_line_of_the_name(model: list[tuple[str, str]], name: str) -> None:
    headers = Headers(model)
    rest = [pair for pair in model if not same(name)(pair)]
    before = headers.get(name)
    if before is None:
        with pytest.raises(KeyError):
            del headers[name]
    else:
        del headers[name]
    assert headers.items() == rest

    again = Headers(model)
    assert again.pop(name, "absent") == ("absent" if before is None else before)
    assert again.items() == rest

    removed = Headers(model)
    removed.remove({name.lower().encode()})
    assert removed.items() == rest


@given(pairs, names, values)
def test_setdefault_adds_only_what_is_not_there(model: list[tuple[str, str]], name: str, value: str) -> None:
    headers = Headers(model)
    before = headers.get(name)
    assert headers.setdefault(name, value) == (value if before is None else before)
    assert headers.items() == (model if before is not None else [*model, (name, value)])


@given(st.text(max_size=6) | st.binary(max_size=6), st.text(max_size=6) | st.binary(max_size=6))
def test_no_accepted_field_can_break_a_head(name: str | bytes, value: str | bytes) -> None:
    headers = Headers()
    writes: list[Callable[[], object]] = [
        lambda: headers.add(name, value),
        lambda: headers.__setitem__(name, value),
        lambda: headers.setdefault(name, value),
    ]
    for write in writes:
        try:
            write()
        except ValueError:
            continue
    for raw, line in headers.raw():
        assert is_token(raw)
        assert not set(line) & {*range(9), *range(10, 32), 127}
        assert line == line.strip(b" \t")


@pytest.mark.parametrize("control", ["\r", "\n", "\0", "\x0b", "\x7f", "\x1f"])
def test_a_control_character_is_refused_by_name(control: str) -> None:
    with pytest.raises(ValueError, match=r"field 'X-A' has the control character"):
        Headers([("X-A", f"a{control}b")])


@pytest.mark.parametrize("value", [" a", "a ", "\ta", "a\t", " "])
def test_outer_white_space_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"field 'X-A' begins or ends with a space"):
        Headers().add("X-A", value)


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\n", "é", "€", '"', "(", b"a\0", b""])
def test_a_name_that_is_no_token_is_refused(name: str | bytes) -> None:
    writes: list[Callable[[], object]] = [lambda: Headers().add(name, ""), lambda: Headers().__setitem__(name, "")]
    for write in writes:
        with pytest.raises(ValueError, match="is not a token"):
            write()


def test_a_character_outside_latin_1_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"field 'X-A' has a character outside ISO-8859-1"):
        Headers().add("X-A", "€")


def test_a_wrong_type_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"field 'X-A' must be str or bytes, not int"):
        Headers().add("X-A", 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a field name must be str or bytes, not int"):
        Headers().add(5, "")  # type: ignore[arg-type]


class Odd(str):
    """Equal to every other, and cannot be hashed."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


def test_a_value_is_what_was_given_and_not_an_equal_one_that_came_before() -> None:
    given = [Odd("first"), Odd("second"), Odd("x" * 200)]
    headers = Headers([("Name", value) for value in given])
    headers.add(Odd("Other"), b"third")
    assert headers.items() == [("Name", "first"), ("Name", "second"), ("Name", "x" * 200), ("Other", "third")]


def test_what_is_long_is_not_remembered() -> None:
    tracemalloc.start()
    try:
        for number in range(300):
            name, value = f"x-{number}-{'n' * 10000}", f"{number}{'v' * 10000}"
            headers = Headers([(name, "1"), ("x", value), (name.encode(), b"1"), (b"x", value.encode())])
            assert name in headers
            del headers, name, value
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_refused_assignment_changes_nothing() -> None:
    headers = Headers([("A", "1"), ("A", "2")])
    with pytest.raises(ValueError, match="control"):
        headers["A"] = "3\n"
    assert headers.items() == [("A", "1"), ("A", "2")]


def test_a_name_that_cannot_be_is_simply_not_there() -> None:
    headers = Headers([("A", "1")])
    assert "€" not in headers
    assert headers.get("€") is None
    assert 5 not in headers


def test_it_is_made_from_a_mapping_and_from_another() -> None:
    headers = Headers({"A": "1"})
    copied, constructed = headers.copy(), Headers(headers)
    headers.add("B", "2")
    assert copied.items() == constructed.items() == [("A", "1")]


def test_equality_ignores_the_case_of_names_but_not_the_order() -> None:
    assert Headers({"a": "1"}) == Headers({"A": "1"})
    assert Headers([("a", "1"), ("b", "2")]) != Headers([("b", "2"), ("a", "1")])
    assert Headers({"a": "1"}) != {"a": "1"}


def test_from_parsed_takes_the_list_as_it_is() -> None:
    fields = [(b"A", b"a", b"1")]
    assert Headers.from_parsed(fields).fields is fields


def test_remove_without_a_match_keeps_the_list() -> None:
    headers = Headers({"A": "1"})
    before = headers.fields
    headers.remove({b"b"})
    assert headers.fields is before


def test_tokens_are_lower_case_members_of_all_lines() -> None:
    headers = Headers([("Connection", "Close, , X-A"), ("connection", ",\tUpgrade ,")])
    assert headers.tokens("connection") == ["close", "x-a", "upgrade"]
    assert headers.tokens("expect") == []


@pytest.mark.parametrize(
    ("value", "members"),
    [
        ("", []),
        (",,", []),
        ("a,b", ["a", "b"]),
        ('a="x, y", b', ['a="x, y"', "b"]),
        (r'a="x\", y", b', [r'a="x\", y"', "b"]),
        ('a, "open, b', ["a", '"open, b']),
        ('"a"b"c,d",e', ['"a"b"c,d"', "e"]),
    ],
)
def test_a_list_is_split_outside_quotes_only(value: str, members: list[str]) -> None:
    assert split_list(value) == members


@given(st.text('a",\\ ', max_size=30))
def test_splitting_a_list_loses_no_member(value: str) -> None:
    assert "".join(split_list(value)).replace(",", "").replace(" ", "") == value.replace(",", "").replace(" ", "")


def test_the_repr_tells_and_stays_short() -> None:
    assert repr(Headers()) == "<Headers empty>"
    assert repr(Headers({"A": "1"})) == "<Headers A: 1>"
    assert len(repr(Headers([("A" * 3, "v" * 1000)] * 1000))) < 1000
