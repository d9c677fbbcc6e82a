"""Records as a log may have them, drawn by hypothesis, and files of them."""

from __future__ import annotations

from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st

from trio_tsconnect.hooks import State
from trio_tsconnect.log import Ended, LogRecord

costly = settings(max_examples=max(15, settings().max_examples // 50))
"""For properties of which one example opens a database: fewer of them, in the suite and in `make fuzz`."""

SECONDS = st.integers(0, 5_000_000).map(lambda micros: micros / 1_000_000)
TAGS = st.sampled_from([None, "", "h2", "h2", "auth", "ein ÿ\x1b'\"\\%"])
NUMBERS = st.integers(0, 4)
ORIGINS = st.sampled_from([None, "", "http://a.example/x?y=1", "https://b.example:81/", "odd"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "1", "true", "null", "a'b"]) | st.sampled_from([0.5, -1.25]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=4,
)
RECORDS = st.builds(
    LogRecord,
    time=st.integers(0, 10**13).map(lambda micros: micros / 1_000_000),
    session=NUMBERS,
    client_connection=NUMBERS,
    stream=st.none() | NUMBERS,
    transaction=st.integers(0, 12),
    parent=st.none() | st.integers(1, 12),
    root=st.integers(0, 12),
    client_address=st.sampled_from([None, "192.0.2.1", "192.0.2.2"]),
    client_protocol=st.sampled_from(["h2", "http/1.1", ""]),
    tag=TAGS,
    id=NUMBERS,
    internal=st.booleans(),
    detached=st.booleans(),
    method=st.sampled_from([None, "GET"]),
    url=st.text(max_size=3) | st.none(),
    origin_url=ORIGINS,
    remap_rule=st.sampled_from([None, "//a/", "//b/"]),
    status=st.none() | st.sampled_from([0, 101, 200, 304, 404, 500, 999]),
    request_bytes=NUMBERS,
    response_bytes=NUMBERS,
    origin_connection=st.none() | NUMBERS,
    origin_reused=st.none() | st.booleans(),
    milestones=st.dictionaries(st.sampled_from([state.value for state in State]), SECONDS, max_size=6),
    ended=st.builds(
        Ended, *(st.sampled_from(each) for each in (["client", "proxy"], ["complete", "responded", "gone"], ["release", "remap"]))
    ),
    plugin=st.dictionaries(st.sampled_from(["P", "Q#2"]), st.dictionaries(st.sampled_from(["a", "b"]), JSON, max_size=2), max_size=2),
    deadline_left=st.none() | st.dictionaries(st.sampled_from(["remap", "release"]), SECONDS, max_size=2),
    process=st.sampled_from([0, 1, 2]),
    tls_resumed=st.none() | st.booleans(),
    opened_by=st.sampled_from([None, "Auth.read_request", "Other.run"]),
    request_headers=st.none() | st.dictionaries(st.sampled_from(["x-a", "x-b"]), st.text(max_size=2), max_size=2),
)
BAD = ["torn {", '{"time": "20', "[1]", "5", '"text"', "null", '{"a": 1}', "\x0c{", '{"transaction": null}', '{"transaction": 1} x']
GAP = '{"dropped":3,"time":null}'


def write(path: Path, lines: list[LogRecord | str]) -> Path:
    """Write a log of records and of other lines."""
    text = "".join((line if isinstance(line, str) else line.to_json()) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    return path
