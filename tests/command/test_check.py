from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trio_tsconnect.__main__ import main
from trio_tsconnect.stream import load_parser

REMAP = '[[remap]]\nfrom = "//api.example/"\nto = "http://127.0.0.1:9000/"\n'


def test_good_configuration_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text('[[listen]]\naddress = "127.0.0.1:8080"\n[[listen]]\naddress = "[::1]:8080"\n' + REMAP)
    assert main(["check", str(config)]) == 0
    assert capsys.readouterr().out == f"{config}: OK (2 listeners, 1 remap rule)\n"


def test_open_proxy_is_warned_of_and_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text('[[listen]]\naddress = "0.0.0.0:8080"\n[http]\nremap_required = false\n')
    assert main(["check", str(config)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{config}: OK (1 listener, 0 remap rules)"
    assert second.startswith("warning: http.remap_required: is false: an open proxy: any client that can reach listen[0] (0.0.0.0:8080)")


def test_bad_configuration_is_one_line_with_file_and_key_and_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text("[http]\nheader_timeout = -1\n")
    assert main(["check", str(config)]) == 2
    printed, said = capsys.readouterr()
    assert printed == ""
    (line,) = said.splitlines()
    assert line.startswith(f"tsconnect: {config}: http.header_timeout: must be ")


def test_file_that_is_not_there_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "no.toml")]) == 2
    assert capsys.readouterr().err == f"tsconnect: {tmp_path / 'no.toml'}: no such file\n"


@pytest.mark.parametrize("address", ["fd:3", "unix:3"])
def test_what_is_no_host_is_not_taken_for_one(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text(f'[[listen]]\naddress = "{address}"\n')
    assert main(["check", str(config)]) == 2
    assert 'listen[0].address: must be "host:port"' in capsys.readouterr().err


def test_parser_that_is_not_installed_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    load_parser.cache_clear()
    monkeypatch.setitem(sys.modules, "h11_mypyc", None)
    config = tmp_path / "proxy.toml"
    config.write_text('[http]\nparser = "fast"\n')
    try:
        assert main(["check", str(config)]) == 2
    finally:
        load_parser.cache_clear()
    assert 'http.parser: "fast" needs the extra of that name' in capsys.readouterr().err
