"""The origin schemes `asgi:` and `asgi+trio:`, as in `to = "asgi:package.module:app"`.

`asgi:` runs the application on an asyncio loop, which most applications need. `asgi+trio:` runs it on trio. `app` may be a dotted path of
attributes. A name that ends with `()` is a factory: it is called without arguments and returns the application.
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
    """Import and return the application named `package.module:app`, or call the factory named `package.module:make_app()`.

    Raises `ConfigError` if the name cannot be parsed, the module cannot be imported, the attribute does not exist, or it is not callable.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ConfigError(f'"{name}" is not the name of an application, expected "package.module:app"', key="to")
    try:
        found = importlib.import_module(match["module"])
    except ImportError as exc:
        raise ConfigError(f'cannot import "{match["module"]}": {exc}, expected an importable module', key="to") from exc
    for part in match["path"].split("."):
        try:
            found = getattr(found, part)
        except AttributeError as exc:
            raise ConfigError(f'module "{match["module"]}" has no "{match["path"]}", expected an application', key="to") from exc
    if not callable(found):
        raise ConfigError(f'"{name}" is not callable, expected an ASGI application', key="to")
    application: Application = found() if match["call"] else found
    return application


def _parse(loop: Literal["trio", "asyncio"], name: str) -> functools.partial[AsgiPlugin]:
    # Check only the syntax here: nothing is imported before the proxy loads the rule's origin.
    if _NAME.fullmatch(name) is None:
        raise ConfigError(f'"{name}" is not the name of an application, expected "package.module:app"', key="to")
    return functools.partial(_load, loop, name)


def _load(loop: Literal["trio", "asyncio"], name: str) -> AsgiPlugin:
    return AsgiOrigin(load_application(name), loop=loop).plugin()


register_origin_scheme("asgi", functools.partial(_parse, "asyncio"))
register_origin_scheme("asgi+trio", functools.partial(_parse, "trio"))
