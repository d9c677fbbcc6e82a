"""A `ProxyConfig` from a TOML file. One law: every fault is one line that names the file, the key, and what was expected.

The tables map one to one onto the classes of the configuration, which judge their own values; here is only what a file adds to that:
its keys' names, paths relative to it, and whether the files that it names are there and fit together.
"""

from __future__ import annotations

import os
import re
import ssl
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import GenericAlias
from typing import TYPE_CHECKING, Any, get_args, get_origin

import attrs

from trio_tsconnect.engine._checks import ConfigError, did_you_mean, shown
from trio_tsconnect.engine._config import ProxyConfig
from trio_tsconnect.engine._options import LogConfig, TlsFiles

if TYPE_CHECKING:
    from cattrs import Converter

_SYNTAX = re.compile(r"(?P<problem>.*) \((?:at )?(?P<place>[^()]*)\)", re.DOTALL)
_NOT_IN_FILES = {
    "access": "access rules are not supported by this version",
    "plugin": "plugins are not loaded from a file by this version",
}
_ONLY_PYTHON = frozenset({"access", "plugins"})


def load(path: str | os.PathLike[str]) -> ProxyConfig:
    """What the file says, with every default filled in; `ConfigError` when it cannot be used."""
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
        # The standard library names the line of any fault but one that it finds when the text is over.
        place = place if place.startswith("line") else f"line {max(1, len(text.splitlines()))}"
        raise ConfigError(f"is not TOML: {problem}", key=place) from exc


def _build(raw: dict[str, Any], folder: Path) -> ProxyConfig:
    try:
        converter = _converter(folder)
    except ImportError as exc:
        problem = "reading a configuration file needs cattrs, expected the extra: pip install 'trio-tsconnect[server]'"
        raise ConfigError(problem) from exc
    for key in raw.keys() & _NOT_IN_FILES.keys():
        raise ConfigError(f"{_NOT_IN_FILES[key]}, expected none", key=key)
    try:
        config: ProxyConfig = converter.structure(raw, ProxyConfig)
    except Exception as exc:
        raise _first_fault(exc, "") from exc
    if config.log is None:
        # In a file, no [log] table means JSON lines on standard error, and not silence.
        config = attrs.evolve(config, log=LogConfig())
    _check_files(config)
    return config


# --- structure ---------------------------------------------------------------------------------------------------------------------


def _converter(folder: Path) -> Converter:
    from cattrs import Converter

    converter = Converter(forbid_extra_keys=True, detailed_validation=True)

    def is_tuple(kind: Any) -> bool:
        return bool(get_origin(kind) is tuple)

    def is_optional_class(kind: Any) -> bool:
        return type(None) in get_args(kind) and any(map(attrs.has, get_args(kind)))

    def is_plain(kind: Any) -> bool:
        return not attrs.has(kind) and get_origin(kind) not in (tuple, list)

    # Plain values pass through as they are: the classes judge them, with the same words as for a value made in Python.
    for plain in (bool, int, float, str):
        converter.register_structure_hook(plain, lambda value, _kind: value)
    converter.register_structure_hook_func(is_plain, lambda value, _kind: value)

    def optional_hook(kind: Any) -> Callable[[Any, Any], Any]:
        member = next(member for member in get_args(kind) if attrs.has(member))
        return lambda value, _kind: converter.structure(value, member)

    def list_hook(kind: Any) -> Callable[[Any, Any], Any]:
        members: Any = GenericAlias(list, get_args(kind)[:1])
        return lambda value, _kind: tuple(converter.structure(_expect(value, list, "a list"), members))

    converter.register_structure_hook_factory(is_optional_class, optional_hook)
    converter.register_structure_hook_factory(is_tuple, list_hook)
    converter.register_structure_hook_factory(attrs.has, lambda kind: _table_hook(converter, kind, folder))
    return converter


def _table_hook(converter: Converter, kind: type, folder: Path) -> Callable[[Any, Any], Any]:
    from cattrs.gen import make_dict_structure_fn, override

    overrides = {f.name: override(rename=_key(f.name), omit=f.name in _ONLY_PYTHON or None) for f in attrs.fields(kind) if f.init}
    inner: Callable[[Any, Any], Any] = make_dict_structure_fn(kind, converter, **overrides)  # type: ignore[arg-type]  # names are fields here
    paths = [_key(field.name) for field in attrs.fields(kind) if field.metadata.get("path")]

    def structure(value: Any, _kind: Any) -> Any:
        table = dict(_expect(value, dict, "a table"))
        for key in paths:
            if isinstance(table.get(key), str) and table[key]:
                table[key] = os.fspath(folder / table[key])
        if isinstance(to := table.get("to"), str) and to.startswith("unix:") and len(to) > len("unix:"):
            table["to"] = f"unix:{folder / to.removeprefix('unix:')}"
        return inner(table, _kind)

    return structure


def _expect(value: Any, kind: type, expected: str) -> Any:
    if not isinstance(value, kind):
        raise ConfigError(f"must be {expected}, got {shown(value)}")
    return value


def _key(name: str) -> str:
    """What a field is called in a file: `from` is a word of Python, and a field of that name has an underscore behind it."""
    return name.rstrip("_")


def _first_fault(exc: BaseException, where: str) -> ConfigError:
    """The first of the faults that cattrs has collected, as one line; an unknown key before its table's other faults, which it explains."""
    from cattrs import AttributeValidationNote, ClassValidationError, ForbiddenExtraKeysError, IterableValidationError

    match exc:
        case ClassValidationError() | IterableValidationError():
            located, others = exc.group_exceptions()
            unknown = [other for other in others if isinstance(other, ForbiddenExtraKeysError)]
            if unknown or not located:
                return _first_fault((unknown or others)[0], where)
            fault, note = located[0]
            return _first_fault(fault, _join(where, _key(note.name) if isinstance(note, AttributeValidationNote) else f"[{note.index}]"))
        case ForbiddenExtraKeysError():
            name = min(exc.extra_fields)
            known = [_key(f.name) for f in attrs.fields(exc.cl) if f.init and f.name not in _ONLY_PYTHON]
            return ConfigError(f"unknown key{did_you_mean(name, known)}", key=_join(where, name))
        case KeyError():
            return ConfigError("is missing, and has no default", key=where)
        case ConfigError():
            first_part, dot, rest = exc.key.partition(".")
            return ConfigError(exc.problem, key=_join(where, _key(first_part) + dot + rest))
        case _:
            raise exc


def _join(where: str, key: str) -> str:
    return where + key if not where or not key or key.startswith("[") else f"{where}.{key}"


# --- the files that the file names ---------------------------------------------------------------------------------------------------


def _check_files(config: ProxyConfig) -> None:
    """Look at every file the configuration names, so that `check` finds what `serve` would stumble over."""
    for index, listen in enumerate(config.listen):
        if listen.tls is not None:
            _check_tls(listen.tls, f"listen[{index}].tls")
    _check_authorities(config.origin.ca_file, "origin.ca_file")
    for index, rule in enumerate(config.remap):
        _check_authorities(rule.ca_file, f"remap[{index}].ca_file")
    if config.log is not None and config.log.path is not None:
        _check_log(Path(config.log.path))


def _check_tls(tls: TlsFiles, where: str) -> None:
    certificate, key = _read(tls.certificate, f"{where}.certificate"), _read(tls.key, f"{where}.key")
    if b"-----BEGIN CERTIFICATE-----" not in certificate:
        raise ConfigError(f"no certificate in {tls.certificate}, expected a PEM file", key=f"{where}.certificate")
    if b"PRIVATE KEY-----" not in key:
        raise ConfigError(f"no private key in {tls.key}, expected a PEM file", key=f"{where}.key")
    if b"ENCRYPTED" in key:
        raise ConfigError(f"the private key in {tls.key} is encrypted, expected one without a passphrase", key=f"{where}.key")
    try:
        # The empty passphrase keeps OpenSSL from asking on the terminal, whatever the file holds.
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


def _check_log(path: Path) -> None:
    if path.is_dir():
        raise ConfigError(f"{path} is a directory, expected a file", key="log.path")
    if not path.parent.is_dir():
        raise ConfigError(f"no such directory: {path.parent}, expected one to write {path.name} in", key="log.path")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"cannot write {path}, expected a file that may be written", key="log.path")


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
