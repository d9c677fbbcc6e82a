"""Configuration files: what maps onto what, and for every fault one line that names file, key and what was expected."""

from __future__ import annotations

import os
import re
import ssl
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two certificates and their keys, and an authority."""
    folder = tmp_path_factory.mktemp("keys")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("cert", "other"):
        issued = authority.issue_cert("proxy.example")
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        issued.private_key_pem.write_to_path(folder / f"{name}-key.pem")
    (folder / "folder").mkdir()
    (folder / "garbage.pem").write_text("garbage")
    (folder / "damaged.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (folder / "encrypted-key.pem").write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
    return folder


def load(folder: Path, text: str | bytes) -> ProxyConfig:
    path = folder / "proxy.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ProxyConfig.from_toml(path)


def fault(folder: Path, text: str | bytes) -> str:
    """The line that a file is refused with, with the folder's own name taken out."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    line = str(caught.value)
    assert caught.value.file == str(folder / "proxy.toml")
    assert line.startswith(f"{folder}/proxy.toml: ")
    assert len(line.splitlines()) == 1
    return line.removeprefix(f"{folder}/proxy.toml: ").replace(f"{folder}/", "")


# --- what maps onto what ---------------------------------------------------------------------------------------------------------------


def test_an_empty_file_means_the_defaults_with_records_on_standard_error(tmp_path: Path) -> None:
    assert load(tmp_path, "") == ProxyConfig(log=LogConfig(path=None))
    assert load(tmp_path, b"\xef\xbb\xbf# a byte order mark is no fault\n") == ProxyConfig(log=LogConfig(path=None))


def test_the_limits_of_http_2(tmp_path: Path) -> None:
    config = load(tmp_path, "[http2]\nmax_concurrent_streams = 7\nmax_unwinding = 0\npings = { burst = 3, rate = 0.5 }")
    assert config.http2 == Http2Limits(max_concurrent_streams=7, max_unwinding=0, pings=RateLimit(3, 0.5))


def test_a_whole_file(keys: Path) -> None:
    config = load(
        keys,
        """
        [[listen]]
        address = "127.0.0.1:8443"
        tls = { certificate = "cert.pem", key = "cert-key.pem" }
        [[listen]]
        address = "[::1]:8080"
        [[remap]]
        from = "//api.example/"
        to = "http://127.0.0.1:9000/v1/"
        [[remap]]
        from = "/"
        to = "unix:run/app.sock:/base"
        preserve_host = true
        ca_file = "ca.pem"
        config = { inactivity_timeout = 5, retries = 0 }
        [http]
        remap_required = false
        inactivity_timeout = 60
        header_timeout = inf
        via = ""
        connect = ["*:443"]
        forwarded = "both"
        max_request_body = 1_000_000
        [origin]
        ca_file = "ca.pem"
        retries = 2
        [log]
        path = "transactions.jsonl"
        flush_interval = 0
        """,
    )
    assert config == ProxyConfig(
        listen=[
            ListenConfig("127.0.0.1:8443", tls=TlsFiles(str(keys / "cert.pem"), str(keys / "cert-key.pem"))),
            ListenConfig("[::1]:8080"),
        ],
        remap=[
            RemapRule("//api.example/", "http://127.0.0.1:9000/v1/"),
            RemapRule(
                "/",
                f"unix:{keys}/run/app.sock:/base",
                preserve_host=True,
                ca_file=str(keys / "ca.pem"),
                config={"inactivity_timeout": 5, "retries": 0},
            ),
        ],
        http=HttpConfig(
            remap_required=False,
            inactivity_timeout=60,
            header_timeout=float("inf"),
            via=None,
            connect=("*:443",),
            forwarded="both",
            max_request_body=1_000_000,
        ),
        origin=OriginConfig(ca_file=str(keys / "ca.pem"), retries=2),
        log=LogConfig(str(keys / "transactions.jsonl"), flush_interval=0),
    )


def test_absolute_paths_stay_and_relative_ones_do_not_depend_on_where_the_command_runs(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (keys / "proxy.toml").write_text(f'[origin]\nca_file = "ca.pem"\n[log]\npath = "{tmp_path}/t.jsonl"')
    monkeypatch.chdir(keys.parent)
    config = ProxyConfig.from_toml(f"{keys.name}/proxy.toml")
    assert config.origin.ca_file == str(keys / "ca.pem")
    assert config.log == (LogConfig(f"{tmp_path}/t.jsonl"),)


def test_an_absolute_unix_socket_stays(tmp_path: Path) -> None:
    config = load(tmp_path, 'remap = [{ from = "/", to = "unix:/run/app.sock" }]')
    assert config.remap[0].unix == "/run/app.sock"


def test_a_file_leaves_nothing_behind(tmp_path: Path) -> None:
    load(tmp_path, '[log]\npath = "t.jsonl"')
    assert [entry.name for entry in tmp_path.iterdir()] == ["proxy.toml"]


# --- what is refused -------------------------------------------------------------------------------------------------------------------

ADDRESS = 'must be "host:port", such as "127.0.0.1:8443" or "[::1]:8443", got'

FAULTS = {
    # keys
    "http = { remap_requird = true }": 'http.remap_requird: unknown key; did you mean "remap_required"?',
    "[htpp]": 'htpp: unknown key; did you mean "http"?',
    "[http2]\nmax_streams = 1": 'http2.max_streams: unknown key; did you mean "max_concurrent_streams"?',
    "[http2]\nmax_concurrent_streams = 0": "http2.max_concurrent_streams: must be a whole number, 1 or more, got 0",
    "[http2]\nresets = 200": "http2.resets: must be a table, got 200",
    "[http2]\nresets = { burst = 200 }": "http2.resets.rate: is missing, and has no default",
    "[http2.pings]\nburst = -1\nrate = 1": "http2.pings.burst: must be a whole number, 0 or more, got -1",
    "zzz = 1": "zzz: unknown key, expected one of remap, http, http2, origin, log, access, listen, plugin",
    '[[listen]]\ntls = { certificate = "a", kye = "b" }': 'listen[0].tls.kye: unknown key; did you mean "key"?',
    '[[remap]]\nfrom_ = "/"\nto = "http://o"': 'remap[0].from_: unknown key; did you mean "from"?',
    '[[remap]]\nfrom = "/"\nto = "http://o"\nhost = "x"': (
        "remap[0].host: unknown key, expected one of from, to, preserve_host, ca_file, verify, plugins, access, config"
    ),
    '[[remap]]\nto = "http://o"': "remap[0].from: is missing, and has no default",
    '[[remap]]\nfrom = "/"\nto = "http://o"\n[[remap]]\nfrom = "/x"': "remap[1].to: is missing, and has no default",
    '[[listen]]\ntls = { certificate = "cert.pem" }': "listen[0].tls.key: is missing, and has no default",
    '"a\\nb" = 1': "a\\nb: unknown key, expected one of remap, http, http2, origin, log, access, listen, plugin",
    "[[access]]": "access[0].action: is missing, and has no default",
    "[[plugin]]": "plugin[0].use: is missing, and has no default",
    # types
    "http = 3": "http: must be a table, got 3",
    "http = [1]": "http: must be a table, got [1]",
    "log = true": "log: must be a table, got true",
    "[remap]": "remap: must be a list, got {}",
    'listen = "127.0.0.1:80"': 'listen: must be a list, got "127.0.0.1:80"',
    "listen = [3]": "listen[0]: must be a table, got 3",
    '[[listen]]\ntls = "cert.pem"': 'listen[0].tls: must be a table, got "cert.pem"',
    '[http]\nconnect = "*:443"': 'http.connect: must be a list, got "*:443"',
    '[http]\nconnect = ["*:443", 1]': 'http.connect[1]: must be "host:port", such as "*:443" or "*.example:8443", got 1',
    "[http]\ninactivity_timeout = true": "http.inactivity_timeout: must be a number of seconds, more than 0, got true",
    "[http]\ninactivity_timeout = nan": "http.inactivity_timeout: must be a number of seconds, more than 0, got nan",
    '[http]\ndrain_timeout = "10"': 'http.drain_timeout: must be a number of seconds, 0 or more, got "10"',
    "[http]\nmax_fields = 1.0": "http.max_fields: must be a whole number, 1 or more, got 1.0",
    "[http]\nmax_fields = true": "http.max_fields: must be a whole number, 1 or more, got true",
    "[http]\nmax_head = 1979-05-27": "http.max_head: must be a whole number of bytes, 64 or more, got datetime.date(1979, 5, 27)",
    "[http]\nremap_required = 1": "http.remap_required: must be true or false, got 1",
    '[http]\nhalf_close = "no"': 'http.half_close: must be "abort" or "finish", got "no"',
    "[origin]\nca_file = 3": "origin.ca_file: must be the name of a file, got 3",
    '[origin]\nca_file = ""': 'origin.ca_file: must be the name of a file, got ""',
    '[log]\nformat = "combind"': 'log.format: unknown format "combind"; did you mean "combined"?',
    '[[log]]\nformat = "combind"': 'log[0].format: unknown format "combind"; did you mean "combined"?',
    '[[log]]\n[[log]]\nformat = "combind"': 'log[1].format: unknown format "combind"; did you mean "combined"?',
    '[log]\nfilter = "status >"': "log.filter: position 9: the expression ends here, expected a field, text in quotes, or a number",
    "[log.rotate]\nsize = 1": "log.rotate: has no effect on a destination that is no file, expected the path of one",
    '[log]\npath = "t.jsonl"\nrotate = { sise = 1 }': 'log.rotate.sise: unknown key; did you mean "size"?',
    '[log]\npath = "t.jsonl"\nrotate = { size = "much" }': (
        'log.rotate.size: must be a number of bytes, 1 or more, or such as "100 MB", got "much"'
    ),
    "[[log]]\n[[log]]\nfille = 1": 'log[1].fille: unknown key; did you mean "filter"?',
    # values
    '[[listen]]\naddress = "127.0.0.1"': f'listen[0].address: {ADDRESS} "127.0.0.1"',
    "[[listen]]\naddress = 8443": f"listen[0].address: {ADDRESS} 8443",
    '[[listen]]\naddress = "a:1"\n[[listen]]\naddress = "a:1"': (
        'listen[1].address: "a:1" is already the address of listen[0], expected a different one'
    ),
    '[[remap]]\nfrom = "ftp://h/"\nto = "http://o"': 'remap[0].from: unknown scheme "ftp", expected http, https, ws or wss',
    '[[remap]]\nfrom = "/"\nto = "unix:"': 'remap[0].to: must be "unix:" and an absolute path, got "unix:"',
    '[[remap]]\nfrom = "/"\nto = "http://o"\nconfig = { retries = "1" }': (
        'remap[0].config.retries: must be a whole number, 0 or more, got "1"'
    ),
    '[[remap]]\nfrom = "/"\nto = "http://o"\nconfig = 1': "remap[0].config: must be a table of options, got 1",
    # files that are named
    '[[listen]]\ntls = { certificate = "no.pem", key = "cert-key.pem" }': "listen[0].tls.certificate: no such file: no.pem",
    '[[listen]]\ntls = { certificate = "cert.pem", key = "no.pem" }': "listen[0].tls.key: no such file: no.pem",
    '[[listen]]\ntls = { certificate = "cert.pem", key = "folder/" }': "listen[0].tls.key: is a directory: folder, expected a file",
    '[[listen]]\ntls = { certificate = "garbage.pem", key = "cert-key.pem" }': (
        "listen[0].tls.certificate: no certificate in garbage.pem, expected a PEM file"
    ),
    '[[listen]]\ntls = { certificate = "cert.pem", key = "garbage.pem" }': (
        "listen[0].tls.key: no private key in garbage.pem, expected a PEM file"
    ),
    '[[listen]]\ntls = { certificate = "cert.pem", key = "other-key.pem" }': (
        "listen[0].tls.key: the private key in other-key.pem does not belong to cert.pem, expected the key of that certificate"
    ),
    '[[listen]]\ntls = { certificate = "cert.pem", key = "encrypted-key.pem" }': (
        "listen[0].tls.key: the private key in encrypted-key.pem is encrypted, expected one without a passphrase"
    ),
    '[origin]\nca_file = "no.pem"': "origin.ca_file: no such file: no.pem",
    '[origin]\nca_file = "garbage.pem"': "origin.ca_file: no certificate in garbage.pem, expected a PEM file of authorities",
    '[[remap]]\nfrom = "/"\nto = "https://o"\nca_file = "no.pem"': "remap[0].ca_file: no such file: no.pem",
    '[log]\npath = "no/t.jsonl"': "log.path: no such directory: no, expected an existing directory for t.jsonl",
    '[log]\npath = "folder"': "log.path: folder is a directory, expected a file",
}


@pytest.mark.parametrize("text", FAULTS)
def test_a_fault_is_one_line_that_names_the_key_and_what_was_expected(text: str, keys: Path) -> None:
    assert fault(keys, text) == FAULTS[text]


def test_a_damaged_certificate_is_told_with_the_key_it_was_tried_with(keys: Path) -> None:
    line = fault(keys, '[[listen]]\ntls = { certificate = "damaged.pem", key = "cert-key.pem" }')
    expected = r"listen\[0\]\.tls: cannot load damaged\.pem with cert-key\.pem \(.+\), expected PEM files of a certificate and its key"
    assert re.fullmatch(expected, line)


def test_openssl_is_never_left_to_ask_for_a_passphrase_on_the_terminal(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_passphrases: list[object] = []
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", lambda self, cert, key, password=None: given_passphrases.append(password))
    load(keys, '[[listen]]\ntls = { certificate = "cert.pem", key = "cert-key.pem" }')
    assert given_passphrases == [""]


# The words behind "is not TOML" are the standard library's, and differ between Python versions: only the place is pinned.
@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("[http]\nmax_fields 3", "line 2, column 12: is not TOML: "),
        ("[http]\nmax_fields = 3 4", "line 2, column 16: is not TOML: "),
        ("\n\na = 1\na = 2", "line 4: is not TOML: "),
        ("[http]\nmax_fields = {", "line 2: is not TOML: "),
        (b"# \xe9t\xe9\n", "line 1: is not UTF-8, expected a TOML file"),
        (b"\n\n# \xff\n", "line 3: is not UTF-8, expected a TOML file"),
    ],
)
def test_a_file_that_is_no_toml_is_told_by_line(text: str | bytes, start: str, tmp_path: Path) -> None:
    assert fault(tmp_path, text).startswith(start)


def test_a_file_that_cannot_be_read_is_told_as_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^no\.toml: no such file$"):
        ProxyConfig.from_toml("no.toml")
    with pytest.raises(ConfigError, match=r"^\.: is a directory, expected a file$"):
        ProxyConfig.from_toml(".")

    def refuse(_path: Path) -> bytes:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ConfigError, match=r"^p\.toml: cannot be read \(Permission denied\)$"):
        ProxyConfig.from_toml("p.toml")


def test_a_log_that_cannot_be_written_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert fault(tmp_path, '[log]\npath = "t.jsonl"') == "log.path: cannot write t.jsonl, expected a writable file"


def test_without_cattrs_the_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cattrs", None)
    expected = "reading a configuration file needs cattrs, expected the extra: pip install 'trio-tsconnect[server]'"
    assert fault(tmp_path, "") == expected


def test_configuration_from_python_needs_no_cattrs() -> None:
    import subprocess

    program = (
        "import sys; sys.modules['cattrs'] = None\n"
        "from trio_tsconnect.config import ProxyConfig, RemapRule\n"
        "print(ProxyConfig(remap=[RemapRule('/', 'http://o')]).remap[0].to)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "http://o\n"


@pytest.mark.parametrize("part", [HttpConfig, OriginConfig])
def test_every_default_can_be_written_down(part: Any, tmp_path: Path) -> None:
    lines = [f"[{'http' if part is HttpConfig else 'origin'}]"]
    for name, value in attrs.asdict(part()).items():
        if value is not None:
            text = f'"{value}"' if isinstance(value, str) else str(list(value) if isinstance(value, tuple) else value).lower()
            lines.append(f"{name} = {text}")
    assert load(tmp_path, "\n".join(lines)) == ProxyConfig(log=LogConfig())


KNOWN = ["http", "origin", "log", "listen", "remap", "from", "to", "tls", "address", "config", "via", "connect", "path", "access", "x"]
KNOWN += ["plugin", "plugins", "use", "options", "action", "clients", "methods", "internal", "certificates"]
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.booleans(), st.integers(-2, 9), st.floats(), st.sampled_from(["", "/", "http://o", "unix:x", "h:1", "a\nb", "\0"])),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(KNOWN), inner, max_size=3)),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.dictionaries(st.sampled_from(KNOWN), VALUES, max_size=3))
def test_no_document_is_refused_with_anything_but_one_line(raw: dict[str, Any], tmp_path: Path) -> None:
    from trio_tsconnect.config import _toml

    refusal: ConfigError | None = None
    try:
        _toml._build(raw, tmp_path)
    except ConfigError as exc:
        refusal = exc
    assert refusal is None or (refusal.key and len(str(refusal).splitlines()) == 1)


def test_several_logs_and_one_are_written_alike(tmp_path: Path) -> None:
    one = load(tmp_path, '[log]\npath = "a.log"')
    assert one == load(tmp_path, '[[log]]\npath = "a.log"') == ProxyConfig(log=LogConfig(f"{tmp_path}/a.log"))
    text = """
        [[log]]
        path = "a.log"
        rotate = { size = "100 MB", every = "1 day", keep = 3, compress = true }
        [[log]]
        path = "syslog:"
        format = "combined"
        filter = 'status >= 500'
        sample = 0.01
        [[log]]
        path = "|cat > b.log"
        [[log]]
        path = "logging:access"
        [[log]]
        path = "-"
    """
    logs = load(tmp_path, text).log
    assert [log.path for log in logs] == [f"{tmp_path}/a.log", "syslog:", "|cat > b.log", "logging:access", "-"]
    assert logs[0].rotate == RotateConfig(size=100_000_000, every=86400, keep=3, compress=True)
    assert (logs[1].format, logs[1].filter, logs[1].sample) == ("combined", "status >= 500", 0.01)
    assert load(tmp_path, "log = []").log == (LogConfig(),)


def test_the_directory_of_each_log_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"log\[1\]\.path: no such directory"):
        load(tmp_path, '[[log]]\npath = "a"\n[[log]]\npath = "nowhere/b"')
    with pytest.raises(ConfigError, match=r"log\.path: no such directory"):
        load(tmp_path, '[log]\npath = "nowhere/b"')
