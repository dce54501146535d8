"""Why a plugin cannot be had: each error names the distribution and what to do."""

from collections.abc import Sequence
from typing import Any

from obuilder._core.drivers.driver_names import PACKAGE_NAME
from obuilder._core.drivers.kinds import STORE, Backend, Kind
from obuilder.errors import PluginError
from obuilder.spec.suggest import nearest

__all__ = ["conflict", "import_failure", "not_installed", "not_that_distribution"]


def not_installed(
    kind: Kind[Any], name: str, names: Sequence[str], *, where: str | None
) -> PluginError:
    """There is no driver `name` among the installed `names`."""
    meant = nearest(name, names)
    hints = [f"did you mean {meant!r}?"] if meant else []
    hints.append(f"installed: {', '.join(names)}." if names else f"no {kind.name} is installed.")
    if PACKAGE_NAME.fullmatch(name):
        hints.append(f"To install it: pip install obuilder-{kind.name}-{name}")
    return PluginError(
        f"{kind.name} {name!r} is not installed",
        where=where,
        hint=" ".join(hints),
        code="plugin.not-installed",
    )


def import_failure(backend: Backend, error: BaseException) -> PluginError:
    """What a plugin's import raised, with what to do."""
    name = backend.distribution
    hint = f"pip install --force-reinstall {name}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        what = f"it needs the module {error.name!r}, which is not installed"
    elif isinstance(error, AttributeError) and error.obj is not None:
        what = f"its entry point {backend.entry_point.value!r} names nothing that is there"
    else:
        what = f"{type(error).__name__}: {error}"
        hint = f"report it to the author of {name}, or remove it: pip uninstall {name}"
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "obuilder":
        hint = f"they do not fit together: pip install --upgrade obuilder {name}"
    return PluginError(
        f"{name}: {backend.kind.name} {backend.name!r} cannot be imported: {what}",
        hint=hint,
        code="plugin.import",
    )


def conflict(kind: Kind[Any], name: str, claims: Sequence[Backend]) -> PluginError:
    """Several distributions claim a driver."""
    names = sorted(claim.distribution for claim in claims)
    return PluginError(
        f"{kind.name} {name!r} is claimed by {' and by '.join(names)}",
        hint=f"say which: {_choices(kind, claims)}; or keep one: pip uninstall {names[-1]}",
        code="plugin.conflict",
    )


def not_that_distribution(
    kind: Kind[Any], name: str, claims: Sequence[Backend], *, where: str | None
) -> PluginError:
    """A distribution was named that has no such driver; others have."""
    return PluginError(
        f"{kind.name} {name!r} is not installed: another distribution has that driver",
        where=where,
        hint=f"write {_choices(kind, claims)}",
        code="plugin.not-installed",
    )


def _choices(kind: Kind[Any], claims: Sequence[Backend]) -> str:
    location = ":LOCATION" if kind is STORE else ""
    names = sorted(f"{claim.distribution}/{claim.name}" for claim in claims)
    return " or ".join(f"--{kind.name}={name}{location}" for name in names)
