"""What a backend's class must look like; every fault says whose it is and what to do."""

import dataclasses
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

from obuilder._core.drivers.renames import RENAMES, Rename, used_renames
from obuilder._core.options import unsupported_option
from obuilder.errors import PluginError
from obuilder.interfaces import API_VERSION

__all__ = ["check_class"]

_log = logging.getLogger(__name__)

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def check_class(
    backend: object, interface: type, *, distribution: str, renames: Sequence[Rename] = RENAMES
) -> None:
    """PluginError unless `backend` keeps the form of `interface`; names it outgrew are logged.

    Codes: `plugin.not-a-backend`, `plugin.api`, `plugin.method-missing`,
    `plugin.signature`, `plugin.config`.
    """
    author = f"report it to the author of {distribution}, or install another release of it"
    if not (inspect.isclass(backend) and issubclass(backend, interface)):
        raise PluginError(
            f"{distribution}: {_name(backend)} is not a subclass of obuilder.{interface.__name__}",
            hint=author,
            code="plugin.not-a-backend",
        )
    _check_api(backend, distribution, author)
    missing = sorted(getattr(backend, "__abstractmethods__", ()))
    if missing:
        raise PluginError(
            f"{distribution}: {backend.__name__} lacks {', '.join(missing)}",
            hint=author,
            code="plugin.method-missing",
        )
    old = list(used_renames(backend, interface, renames))
    for fault in _signature_faults(backend, interface, old):
        raise PluginError(
            f"{distribution}: {backend.__name__}.{fault}", hint=author, code="plugin.signature"
        )
    wrong = _config_fault(backend)
    if wrong:
        raise PluginError(
            f"{distribution}: {backend.__name__}: {wrong}", hint=author, code="plugin.config"
        )
    for rename in old:
        _log.warning(
            "DeprecationWarning: %s: %s.%s() has the parameter %r,"
            " which is %r from interface %d on",
            *(distribution, backend.__name__, rename.method),
            *(rename.old, rename.new, rename.api),
        )


def _check_api(backend: type, distribution: str, author: str) -> None:
    api = vars(backend).get("API")
    if type(api) is not int or api < 1:
        raise PluginError(
            f"{distribution}: {backend.__name__} does not say which interface it was written "
            f"against: its class body needs API = {API_VERSION}",
            hint=author,
            code="plugin.api",
        )
    if api > API_VERSION:
        raise PluginError(
            f"{distribution}: {backend.__name__} needs interface {api}; "
            f"this obuilder speaks 1 to {API_VERSION}",
            hint=f"pip install --upgrade obuilder, or install an older {distribution}",
            code="plugin.api",
        )


def _config_fault(backend: type) -> str | None:
    config = vars(backend).get("Config")
    if not (inspect.isclass(config) and dataclasses.is_dataclass(config)):
        return "its class body needs Config, a frozen dataclass"
    if not config.__dataclass_params__.frozen:  # type: ignore[attr-defined]  # not in typeshed
        return "Config is not frozen"
    try:
        fault = unsupported_option(config)
    except (NameError, TypeError) as error:  # annotations that cannot be evaluated
        fault = str(error)
    return f"Config: {fault}" if fault else None


def _signature_faults(backend: type, interface: type, old: Sequence[Rename]) -> Iterator[str]:
    for name, promised in vars(interface).items():
        if name.startswith("_"):
            continue
        renamed = {rename.old: rename.new for rename in old if rename.method == name}
        found = inspect.getattr_static(backend, name)
        if found is promised:
            continue
        if isinstance(promised, property):
            if inspect.isroutine(found) or isinstance(found, classmethod | staticmethod):
                yield f"{name} is a method; it must be a property"
        elif isinstance(promised, classmethod):
            if isinstance(found, classmethod):
                yield from _call_faults(name, found.__func__, promised.__func__, renamed=renamed)
            else:
                yield f"{name}() must be a classmethod"
        elif inspect.isfunction(promised):
            if inspect.isfunction(found):
                yield from _call_faults(name, found, promised, renamed=renamed)
            else:
                yield f"{name} must be a method"


def _call_faults(
    name: str,
    found: Callable[..., object],
    promised: Callable[..., object],
    *,
    renamed: Mapping[str, str],
) -> Iterator[str]:
    if inspect.iscoroutinefunction(promised) and not inspect.iscoroutinefunction(found):
        yield f"{name}() must be an async def"
    elif not inspect.iscoroutinefunction(promised):
        if inspect.isasyncgenfunction(found) or inspect.isgeneratorfunction(found):
            yield f"{name}() lacks the decorator @asynccontextmanager"
        elif inspect.iscoroutinefunction(found):
            yield f"{name}() must return an async context manager, and is an async def"
    # The first parameter is self or cls, under any name.
    theirs = [
        parameter.replace(name=renamed.get(parameter.name, parameter.name))
        for parameter in list(inspect.signature(found).parameters.values())[1:]
    ]
    ours = list(inspect.signature(promised).parameters.values())[1:]
    yield from _parameter_faults(name, theirs, ours)


def _parameter_faults(
    name: str, theirs: list[inspect.Parameter], ours: list[inspect.Parameter]
) -> Iterator[str]:
    kinds = {parameter.kind for parameter in theirs}
    takes_any = inspect.Parameter.VAR_KEYWORD in kinds
    positional = [parameter.name for parameter in theirs if parameter.kind in _POSITIONAL]
    named = {parameter.name for parameter in theirs if parameter.kind in _NAMED}
    expected = [parameter.name for parameter in ours if parameter.kind in _POSITIONAL]
    if inspect.Parameter.VAR_POSITIONAL not in kinds and positional[: len(expected)] != expected:
        yield f"{name}() takes ({', '.join(positional)}) where ({', '.join(expected)}) is promised"
    for parameter in ours:
        if parameter.name not in named and not takes_any:
            yield f"{name}() lacks the parameter {parameter.name!r}"
    known = {parameter.name for parameter in ours}
    for parameter in theirs:
        required = parameter.default is parameter.empty
        if required and parameter.kind in _NAMED and parameter.name not in known:
            yield f"{name}() wants a parameter {parameter.name!r} that the core does not give"


def _name(thing: object) -> str:
    return getattr(thing, "__qualname__", None) or repr(thing)
