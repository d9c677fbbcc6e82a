"""Load a `ProxyConfig` from a TOML file.

Invariant: an invalid file raises one `ConfigError`, whose message is one line with the file, the key, and what is expected.

The tables map one to one onto the configuration classes, which validate their own fields; `_structure` creates them. This module adds the
checks that only a file needs: its syntax, and whether the files that it names exist and fit together.
"""

from __future__ import annotations

import os
import re
import ssl
import tomllib
from pathlib import Path
from typing import Any

import attrs

from trio_tsconnect.config._checks import ConfigError, shown
from trio_tsconnect.config._config import ProxyConfig
from trio_tsconnect.config._log import LogConfig
from trio_tsconnect.config._options import TlsFiles
from trio_tsconnect.config._played import load_origin
from trio_tsconnect.config._structure import converter_of, first_fault
from trio_tsconnect.log import is_file

_SYNTAX = re.compile(r"(?P<problem>.*) \((?:at )?(?P<place>[^()]*)\)", re.DOTALL)


def load(path: str | os.PathLike[str]) -> ProxyConfig:
    """Load the file and fill in the defaults. Raises `ConfigError` if the file cannot be read or is invalid."""
    file = os.fspath(path)
    try:
        return _build(_parse(file), Path(file).absolute().parent)
    except ConfigError as exc:
        raise ConfigError(exc.problem, key=exc.key, file=file) from exc.__cause__


def _parse(file: str) -> dict[str, Any]:
    try:
        text = Path(file).read_bytes().decode("utf-8-sig")
    except OSError as exc:
        raise ConfigError(_why(exc)) from exc
    except UnicodeDecodeError as exc:
        line = exc.object.count(b"\n", 0, exc.start) + 1
        raise ConfigError("is not UTF-8, expected a TOML file", key=f"line {line}") from exc
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        found = _SYNTAX.fullmatch(str(exc))
        problem, place = (found["problem"], found["place"]) if found else (str(exc), "")
        # tomllib reports the line of every error except one at the end of the file.
        place = place if place.startswith("line") else f"line {max(1, len(text.splitlines()))}"
        raise ConfigError(f"is not TOML: {problem}", key=place) from exc


def _build(raw: dict[str, Any], folder: Path) -> ProxyConfig:
    try:
        converter = converter_of(folder)
    except ImportError as exc:
        problem = "reading a configuration file needs cattrs, expected the extra: pip install 'trio-tsconnect[server]'"
        raise ConfigError(problem) from exc
    one_log = isinstance(raw.get("log", {}), dict)
    if not one_log and not isinstance(raw["log"], list):
        raise ConfigError(f"must be a table, got {shown(raw['log'])}", key="log")
    if one_log and "log" in raw:  # [log] is the same as one [[log]]
        raw = raw | {"log": [raw["log"]]}
    try:
        config: ProxyConfig = converter.structure(raw, ProxyConfig)
    except Exception as exc:
        fault = first_fault(exc)
        raise ConfigError(fault.problem, key=_log_key(fault.key, one_log)) from exc
    if not config.log:
        # A file without a [log] table logs JSON lines to standard error; it does not disable the log.
        config = attrs.evolve(config, log=LogConfig())
    _check_files(config, one_log=one_log)
    return config


def _log_key(key: str, one_log: bool) -> str:
    """Return the key of an error as the file has it: `log.path` for [log], `log[0].path` for [[log]]."""
    return f"log{key.removeprefix('log[0]')}" if one_log and key.startswith("log[0]") else key


# --- the files that the file names ---------------------------------------------------------------------------------------------------


def _check_files(config: ProxyConfig, *, one_log: bool) -> None:
    """Check every file that the configuration names, so that `tsconnect check` finds what would make `tsconnect serve` fail."""
    for index, listen in enumerate(config.listen):
        if listen.tls is not None:
            _check_tls(listen.tls, f"listen[{index}].tls")
            _check_authorities(listen.tls.client_ca, f"listen[{index}].tls.client_ca")
    _check_authorities(config.origin.ca_file, "origin.ca_file")
    for index, rule in enumerate(config.remap):
        _check_authorities(rule.ca_file, f"remap[{index}].ca_file")
        if rule.played is not None:
            _check_played(rule.played, f"remap[{index}].to")
    for index, log in enumerate(config.log):
        if is_file(log.path):
            _check_log(Path(log.path or ""), _log_key(f"log[{index}].path", one_log))


def _check_played(to: str, key: str) -> None:
    try:
        load_origin(to)
    except ConfigError as exc:
        raise ConfigError(exc.problem, key=key) from exc.__cause__


def _check_tls(tls: TlsFiles, where: str) -> None:
    certificate, key = _read(tls.certificate, f"{where}.certificate"), _read(tls.key, f"{where}.key")
    if b"-----BEGIN CERTIFICATE-----" not in certificate:
        raise ConfigError(f"no certificate in {tls.certificate}, expected a PEM file", key=f"{where}.certificate")
    if b"PRIVATE KEY-----" not in key:
        raise ConfigError(f"no private key in {tls.key}, expected a PEM file", key=f"{where}.key")
    if b"ENCRYPTED" in key:
        raise ConfigError(f"the private key in {tls.key} is encrypted, expected one without a passphrase", key=f"{where}.key")
    try:
        # An empty passphrase prevents OpenSSL from prompting on the terminal, whatever the file contains.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key, password="")
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            problem = f"the private key in {tls.key} does not belong to {tls.certificate}, expected the key of that certificate"
            raise ConfigError(problem, key=f"{where}.key") from exc
        problem = (
            f"cannot load {tls.certificate} with {tls.key} ({exc.reason or 'damaged'}), expected PEM files of a certificate and its key"
        )
        raise ConfigError(problem, key=where) from exc


def _check_authorities(name: str | None, key: str) -> None:
    if name is None:
        return
    _read(name, key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(name)
    except ssl.SSLError as exc:
        raise ConfigError(f"no certificate in {name}, expected a PEM file of authorities", key=key) from exc


def _check_log(path: Path, key: str) -> None:
    if path.is_dir():
        raise ConfigError(f"{path} is a directory, expected a file", key=key)
    if not path.parent.is_dir():
        raise ConfigError(f"no such directory: {path.parent}, expected an existing directory for {path.name}", key=key)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"cannot write {path}, expected a writable file", key=key)


def _read(name: str, key: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as exc:
        raise ConfigError(_why(exc, name), key=key) from exc


def _why(exc: OSError, name: str = "") -> str:
    colon = f": {name}" if name else ""
    match exc:
        case FileNotFoundError():
            return f"no such file{colon}"
        case IsADirectoryError():
            return f"is a directory{colon}, expected a file"
        case _:
            return f"cannot be read{colon} ({exc.strerror})"
