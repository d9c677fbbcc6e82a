from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trio_tsconnect import __version__
from trio_tsconnect.__main__ import main

from ._process import LIMIT


def test_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "trio_tsconnect", "--version"], capture_output=True, text=True, check=True, timeout=LIMIT)
    assert done.stdout == f"tsconnect {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["serve"], ["sreve", "x.toml"], ["logstats"], ["check", "a.toml", "b.toml"]])
def test_what_cannot_be_understood_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: tsconnect" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["serve", "check", "demo", "logstats", "logtree"])
def test_each_verb_says_what_it_does(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([verb, "--help"])
    assert exit_.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 5


def test_reader_that_has_seen_enough_ends_the_command_in_silence(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f'{{"transaction": {number}, "time": ""}}\n' for number in range(1, 20_000)))
    command = f"'{sys.executable}' -m trio_tsconnect logtree '{log}' | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=True, timeout=LIMIT)
    assert (done.stdout, done.stderr) == ("#1 - - -\n", "")
