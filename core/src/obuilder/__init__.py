"""OBuilder for programs that embed a builder.

::

    settings = Settings.from_dict({"store": "btrfs:/srv/obuilder"})
    async with open_builder(settings) as builder:
        result = await builder.build(parse(text), BuildContext(src_dir=source))

`build_sync` does the same from a thread. Names are loaded when they are used:
importing this package imports nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from obuilder import errors as errors
    from obuilder import events as events
    from obuilder._core.build import BuildContext as BuildContext
    from obuilder._core.build import Builder as Builder
    from obuilder._core.build import BuildResult as BuildResult
    from obuilder._core.build import Counters as Counters
    from obuilder._core.checker.findings import Finding as Finding
    from obuilder._core.checker.findings import Report as Report
    from obuilder._core.checker.fsck import Checker as Checker
    from obuilder._core.config import Settings as Settings
    from obuilder._core.session import build_sync as build_sync
    from obuilder._core.session import open_builder as open_builder
    from obuilder._core.session import open_checker as open_checker
    from obuilder.errors import BackendError as BackendError
    from obuilder.errors import BuildError as BuildError
    from obuilder.errors import CommandFailed as CommandFailed
    from obuilder.errors import ConfigError as ConfigError
    from obuilder.errors import ErrorKind as ErrorKind
    from obuilder.errors import ObuilderError as ObuilderError
    from obuilder.errors import PluginError as PluginError
    from obuilder.errors import SpecError as SpecError
    from obuilder.hookspecs import hookimpl as hookimpl
    from obuilder.spec import Stage as Stage
    from obuilder.spec import parse as parse
    from obuilder.types import Id as Id

_HOMES = {
    "BackendError": "obuilder.errors",
    "BuildContext": "obuilder._core.build",
    "BuildError": "obuilder.errors",
    "BuildResult": "obuilder._core.build",
    "Builder": "obuilder._core.build",
    "Checker": "obuilder._core.checker.fsck",
    "CommandFailed": "obuilder.errors",
    "ConfigError": "obuilder.errors",
    "Counters": "obuilder._core.build",
    "ErrorKind": "obuilder.errors",
    "Finding": "obuilder._core.checker.findings",
    "Id": "obuilder.types",
    "ObuilderError": "obuilder.errors",
    "PluginError": "obuilder.errors",
    "Report": "obuilder._core.checker.findings",
    "Settings": "obuilder._core.config",
    "SpecError": "obuilder.errors",
    "Stage": "obuilder.spec",
    "build_sync": "obuilder._core.session",
    "hookimpl": "obuilder.hookspecs",
    "open_builder": "obuilder._core.session",
    "open_checker": "obuilder._core.session",
    "parse": "obuilder.spec",
}
_MODULES = ("errors", "events")

__all__ = [
    "BackendError",
    "BuildContext",
    "BuildError",
    "BuildResult",
    "Builder",
    "Checker",
    "CommandFailed",
    "ConfigError",
    "Counters",
    "ErrorKind",
    "Finding",
    "Id",
    "ObuilderError",
    "PluginError",
    "Report",
    "Settings",
    "SpecError",
    "Stage",
    "build_sync",
    "errors",
    "events",
    "hookimpl",
    "open_builder",
    "open_checker",
    "parse",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"obuilder.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'obuilder' has no attribute {name!r}", name=name)
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
