"""Writes what of the documents is generated from the code, between `<!-- begin: NAME -->` and `<!-- end: NAME -->`.

python docs/build.py            write it
python docs/build.py --check    exit with 1 where something has changed and was not written
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs

import trio_tsconnect.http2
import trio_tsconnect.plugins
from trio_tsconnect import Plugin, Transaction
from trio_tsconnect.config import ConfigError, HttpConfig, OriginConfig, RemapRule
from trio_tsconnect.hooks import HOOKS, TRANSITIONS, State
from trio_tsconnect.log import CODES, FIELDS
from trio_tsconnect.message import Failure, outcome

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # as a script it finds only what is beside it

from docs import _errors
from docs._reference import documented

PAGES = ("transaction.md", "plugins.md", "api.md", "errors.md", "log.md", "tutorial/five_plugins.md", "tutorial/gateway.md")

_REGION = re.compile(r"(<!-- begin: (?P<name>[\w. ]+) -->\n).*?(<!-- end: (?P=name) -->)", re.DOTALL)


def state_diagram() -> str:
    """The table of transitions, drawn. What has not begun to answer may go to `release` too, which the page says in words."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.READ_REQUEST.value}"]
    for state, following in TRANSITIONS.items():
        if State.SEND_RESPONSE in following:
            following -= {State.RELEASE}
        lines += [f"    {state.value} --> {each.value}" for each in State if each in following]
    return "\n".join([*lines, f"    {State.CLOSED.value} --> [*]", "```"])


def state_table() -> str:
    """Each state, and what may follow it."""
    meaning = documented("State")
    rows = [
        f"| `{state.value}` | {meaning[state.name]} | {', '.join(f'`{each.value}`' for each in State if each in TRANSITIONS[state]) or 'nothing'} |"
        for state in State
    ]
    return "\n".join(["| state | | what may follow |", "|---|---|---|", *rows])


def hook_table() -> str:
    """Each hook, in its own words."""
    rows = [
        f"| `{name}` | {_first_paragraph(getattr(Plugin, name), without='Source: ')} | {f'`{there}`' if there else 'none'} |"
        for name, there in HOOKS.items()
    ]
    return "\n".join(["| hook | when, and what for | Traffic Server |", "|---|---|---|", *rows])


def action_table() -> str:
    """What a plugin may do in a hook, in the words of the methods."""
    names = [name for name, value in vars(Transaction).items() if inspect.isfunction(value) and _is_for_plugins(name)]
    rows = [f"| `{name}{_parameters(name)}` | {_paragraphs(getattr(Transaction, name))} |" for name in names]
    return "\n".join(["| method | |", "|---|---|", *rows])


def option_table(name: str) -> str:
    """The options of a class of `trio_tsconnect.plugins`: those of a plugin, or of a part of them."""
    kind = getattr(trio_tsconnect.plugins, name)
    path = (name, "Options") if hasattr(kind, "Options") else (name,)
    words = documented(*path)
    return _with_defaults("option", getattr(kind, "Options", kind), words)


def field_table(room: ModuleType, name: str) -> str:
    """The fields of a value that users make or read; where they only read it, no defaults."""
    kind, words = getattr(room, name), documented(name)
    if name not in ONLY_READ:
        return _with_defaults("field", kind, words)
    return "\n".join(["| field | |", "|---|---|", *(f"| `{field.name}` | {words[field.name]} |" for field in attrs.fields(kind))])


def cause_table() -> str:
    """Each failure as the log names it, with what follows from it."""
    meaning = documented("Failure")
    rows = [
        f"| `{end.why}` | {end.by} | {end.status or 'none'} | {meaning[failure.name]} |"
        for failure in Failure
        for end in [outcome(failure)]
    ]
    return "\n".join(["| `why` | `by` | status | |", "|---|---|---|---|", *rows])


def log_fields() -> str:
    """Each field of a log record: its name, its codes in Traffic Server, and its type from the table; its meaning from the record."""
    words = documented("LogRecord")
    rows = []
    for field in FIELDS:
        codes = ", ".join(f"`{{...}}{code}`" if field.kind == "table" else f"`{code}`" for code in field.codes)
        kind = f"{field.kind}, {field.unit}" if field.unit else field.kind
        rows.append(f"| `{field.name}` | {codes} | {kind} | {words[field.name]} |")
    return "\n".join(["| field | code | type | |", "|---|---|---|---|", *rows])


def log_codes() -> str:
    """Each code of Traffic Server's log formats that is more than one field."""
    return "\n".join(["| code | |", "|---|---|", *(f"| `{code.code}` | {code.text} |" for code in CODES)])


def error_table() -> str:
    """Every error text."""
    return _errors.table()


def example_parts(file: str, *names: str) -> str:
    """Parts of an example: its classes, functions and constants of these names. `imports` stands for all of its imports."""
    text = (HERE.parent / "examples" / file).read_text(encoding="utf-8")
    lines, body = text.splitlines(), ast.parse(text).body
    parts: dict[str, tuple[int, int]] = {}
    for node, following in zip(body, [*body[1:], None], strict=True):
        begin, end = node.lineno - 1, node.end_lineno or node.lineno
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            parts["imports"] = (parts.get("imports", (begin, 0))[0], end)
        elif isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            parts[node.name] = (begin, end)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            documented = isinstance(following, ast.Expr) and following.end_lineno
            parts[node.targets[0].id] = (begin, documented or end)
    shown = ["\n".join(lines[begin:end]) for begin, end in (parts[name] for name in names)]
    space = "\n" if all(name.isupper() for name in names) else "\n\n\n"
    return f"```python\n{space.join(shown)}\n```"


def rule_options() -> str:
    """The options that a remap rule may set, which is for the rule to say."""
    rows = [
        f"| `[{table}]` | {', '.join(f'`{field.name}`' for field in attrs.fields(kind) if _is_for_rules(kind(), field.name))} |"
        for table, kind in (("http", HttpConfig), ("origin", OriginConfig))
    ]
    return "\n".join(["| of | options |", "|---|---|", *rows])


def _is_for_rules(config: HttpConfig | OriginConfig, name: str) -> bool:
    try:
        RemapRule("/", "http://site.example/", config={name: getattr(config, name)})
    except ConfigError:
        return False
    return True


def _with_defaults(what: str, kind: type[attrs.AttrsInstance], words: dict[str, str]) -> str:
    rows = [f"| `{field.name}` | {_default(field)} | {words[field.name]} |" for field in attrs.fields(kind) if field.init]
    return "\n".join([f"| {what} | default | |", "|---|---|---|", *rows])


def _default(field: attrs.Attribute[Any]) -> str:
    """As a configuration file would write it."""
    default: Any = field.default
    if default is attrs.NOTHING:
        return "needed"
    if default is None:
        return "none"
    if hasattr(default, "factory"):
        return f"`{_written(default.factory())}`"
    return f"`{_written(default)}`"


def _written(value: Any) -> str:
    if attrs.has(type(value)):  # a part of the whole with its own defaults, or a small value that says all itself
        return repr(value) if isinstance(value, trio_tsconnect.http2.RateLimit) else f"{type(value).__name__}()"
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _is_for_plugins(name: str) -> bool:
    return not name.startswith("_") and name not in ("answered", "enter", "end")  # those are the engine's


def _parameters(name: str) -> str:
    signature = inspect.signature(getattr(Transaction, name))
    shown: list[str] = []
    for parameter in list(signature.parameters.values())[1:]:
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in shown:
            shown.append("*")
        has_default = parameter.default is not parameter.empty
        shown.append(f"{parameter.name}={parameter.default!r}" if has_default else parameter.name)
    return f"({', '.join(shown)})"


def _paragraphs(thing: object) -> str:
    return " ".join((inspect.getdoc(thing) or "").split())


def _first_paragraph(thing: object, *, without: str) -> str:
    return _paragraphs(thing).partition(f" {without}")[0]


ONLY_READ = ("LogRecord", "ProxyStatistics", "TreeNode")
VALUES: dict[str, ModuleType] = {
    **dict.fromkeys(
        (
            "AccessRule",
            "ClientInfo",
            "ConnectOptions",
            "HttpConfig",
            "ListenConfig",
            "LogConfig",
            "LogRecord",
            "OriginConfig",
            "ProxyConfig",
            "ProxyStatistics",
            "RemapRule",
            "RotateConfig",
            "TLSInfo",
            "TlsFiles",
            "TreeNode",
        ),
        trio_tsconnect,
    ),
    "Http2Limits": trio_tsconnect.http2,
}
"""The values whose fields are listed, and where users find each."""

REGIONS: dict[str, Callable[[], str]] = {
    "state diagram": state_diagram,
    "states": state_table,
    "hooks": hook_table,
    "actions": action_table,
    "causes": cause_table,
    "errors": error_table,
    "log fields": log_fields,
    "log codes": log_codes,
    "options of one rule": rule_options,
    **{f"options of {name}": partial(option_table, name) for name in vars(trio_tsconnect.plugins) if name[0].isupper()},
    **{f"fields of {name}": partial(field_table, room, name) for name, room in VALUES.items()},
}


def build(text: str) -> str:
    """A page with its generated regions as they should be."""
    return _REGION.sub(lambda region: f"{region[1]}{_region(region['name'])}\n{region[3]}", text)


def _region(name: str) -> str:
    """The text of a region, by its name. `plugin.py Greeter main` is two parts of an example."""
    file, *names = name.split()
    return example_parts(file, *names) if file.endswith(".py") else REGIONS[name]()


def main(arguments: list[str]) -> int:
    """Write the pages, or say which of them are not as they should be."""
    stale = [name for name in PAGES if (text := (HERE / name).read_text(encoding="utf-8")) != build(text)]
    for name in stale:
        if "--check" in arguments:
            print(f"docs/{name} is not what the code says: python docs/build.py")
        else:
            (HERE / name).write_text(build((HERE / name).read_text(encoding="utf-8")), encoding="utf-8")
            print(f"docs/{name} written")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
