"""`to = "asgi:package.module:app"`: an application by its name.

`asgi:` runs it on an asyncio loop, which most applications need, `asgi+trio:` on trio. `app` may be an attribute of an attribute, and with `()`
behind it what is called without arguments to make the application.
"""

from __future__ import annotations

import functools
import importlib
import re
from typing import Literal

from trio_tsconnect import ConfigError
from trio_tsconnect._util import public
from trio_tsconnect.asgi._origin import AsgiOrigin, AsgiPlugin
from trio_tsconnect.asgi._types import Application
from trio_tsconnect.config import register_origin_scheme

_NAME = re.compile(r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<path>[^\W\d]\w*(?:\.[^\W\d]\w*)*)(?P<call>\(\))?")


@public("trio_tsconnect.asgi")
def load_application(name: str) -> Application:
    """The application that `package.module:app` names, or that `package.module:make_app()` makes; `ConfigError` says what is missing."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ConfigError(f'"{name}" names no application, expected "package.module:app"', key="to")
    try:
        found = importlib.import_module(match["module"])
    except ImportError as exc:
        raise ConfigError(f'cannot import "{match["module"]}": {exc}, expected a module that can be imported', key="to") from exc
    for part in match["path"].split("."):
        try:
            found = getattr(found, part)
        except AttributeError as exc:
            raise ConfigError(f'"{match["module"]}" has no "{match["path"]}", expected an application of that name', key="to") from exc
    if not callable(found):
        raise ConfigError(f'"{name}" is no application: it cannot be called', key="to")
    application: Application = found() if match["call"] else found
    return application


def _parse(loop: Literal["trio", "asyncio"], name: str) -> functools.partial[AsgiPlugin]:
    if _NAME.fullmatch(name) is None:
        raise ConfigError(f'"{name}" names no application, expected "package.module:app"', key="to")
    return functools.partial(_load, loop, name)


def _load(loop: Literal["trio", "asyncio"], name: str) -> AsgiPlugin:
    return AsgiOrigin(load_application(name), loop=loop).plugin()


register_origin_scheme("asgi", functools.partial(_parse, "asyncio"))
register_origin_scheme("asgi+trio", functools.partial(_parse, "trio"))
