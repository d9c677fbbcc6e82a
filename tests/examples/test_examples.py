"""Each example runs to its end by itself, and says what it is there to show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

SHOWS = {
    "embed.py": r"the origin was asked for /v1/cart\n"
    r"log: 127\.0\.0\.1 asked for http://shop\.example/cart, and http://127\.0\.0\.1:\d+/v1/cart answered 200\n",
    "plugin.py": r"/trio: 200 hello, trio \(X-Greeter: 1\)\n"
    r"/private/notes: 403 not for you \(X-Greeter: 1\)\n"
    r"/x/\.\.%2F%70rivate: 403 not for you \(X-Greeter: 1\)\n"
    r'log: http://greeter\.example/warm-up 200 tag=warm-up plugin=\{"Greeter": \{"greeted": "warm-up"\}\}\n'
    r'log: http://greeter\.example/trio 200 tag=None plugin=\{"Greeter": \{"greeted": "trio"\}\}\n'
    r"log: http://greeter\.example/private/notes 403 tag=None plugin=\{\}\n"
    r"log: http://greeter\.example/x/\.\.%2F%70rivate 403 tag=None plugin=\{\}\n",
    "five_plugins.py": r'/apple: 200 \{"name":"apple"\} \(nosniff\)\n'
    r"/pear: 410 sold out \(nosniff\)\n"
    r"/plum: 404 no answer is scripted for GET /plum \(nosniff\)\n"
    r"/private/accounts: 403 not for you \(nosniff\)\n"
    r"/x/\.\.%2F%70rivate: 403 not for you \(nosniff\)\n"
    r"(log: http://shop\.example/\S+ took 0 s\n){5}"
    r"5 of 8 records matched a row by tag, id \(3 have no key\); 3 of 8 rows matched no record \(3 have no key\)\n",
    "virtual_connection.py": r"<VirtualConnection .* tag='example' id=42 .*>\n"
    r"(HTTP/1\.1 200 OK\n(\S+: .*\n)+\nten past four\n\n){2}"
    r"log: tag=example id=42 internal=True GET http://clock\.example/clock 200\n"
    r"log: tag=example id=42 internal=True GET http://clock\.example/clock\?again 200\n",
    "count_streams.py": r"connections that speak h2: 3\n"
    r"connections that speak internal/cron: 1\n"
    r"streams on HTTP/2 connection \d+: 3\nstreams on HTTP/2 connection \d+: 1\nstreams on HTTP/2 connection \d+: 8\n"
    r"streams per HTTP/2 connection: min 1, median 3, max 8\n",
}
"""What each prints, run without arguments; an example with a test of its own is not here."""


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        env=os.environ | {"PYTHONPATH": str(EXAMPLES.parent)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("name", SHOWS)
def test_example_shows_what_it_says(name: str) -> None:
    printed = run(name)
    assert re.fullmatch(SHOWS[name], printed), printed


def test_count_streams_counts_logs_that_it_is_given(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text('{"transaction": 1, "tag": "h2", "id": 5, "client_protocol": "h2", "stream": 1, "status": 200}\n')
    assert run("count_streams.py", str(log)).startswith("connections that speak h2: 1\nstreams on HTTP/2 connection 5: 1\n")
